//! What a recording holds, and that it gives the same again.

use crate::{
    decide::{
        Action, Core, Time,
        record::{Input, Line, Outcome},
        tests::world::{DUBLIN, Dead, PARIS, World, address, orders, s},
    },
    model::{CheckId, MemberId},
};

/// What a core does that is handed in what these lines say.
pub(super) fn replay(lines: &[String]) -> Vec<Action> {
    let mut core: Option<Core> = None;
    let mut actions = Vec::new();
    for line in lines {
        let Line { at, input, .. } =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        if let (None, Input::Core(first)) = (&core, &input) {
            core = Some(Core::clone(first));
        }
        let core = core.as_mut().expect("a recording begins with the core");
        actions.extend(core.replay(at, &input).unwrap());
    }
    actions
}

#[test]
fn lines_are_short_and_stay_what_they_are() {
    let line =
        |input| serde_json::to_string(&Line { at: Time(s(7)), service: "orders".into(), input }).unwrap();
    let probe = Input::Probe(PARIS, address(PARIS, 0), CheckId(0), Outcome::Pass(312_000));
    assert_eq!(
        line(probe),
        r#"{"t":7000000000,"s":"orders","probe":[0,"192.0.2.10:6379",0,{"pass":312000}]}"#
    );
    assert_eq!(line(Input::Deadline), r#"{"t":7000000000,"s":"orders","deadline":null}"#);
    assert_eq!(line(Input::Late(5)), r#"{"t":7000000000,"s":"orders","late":5}"#);
}

#[test]
fn a_core_in_the_middle_of_an_outage_goes_on_from_its_line() {
    let mut world = World::settled(orders());
    world.is(PARIS, Dead).run(crate::decide::tests::world::ms(1050)).assert_no_switch();
    let line =
        Line { at: world.now, service: "orders".into(), input: Input::Core(Box::new(world.core.clone())) };
    let line: Line = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
    let Input::Core(core) = line.input else { panic!("it was a core") };
    world.core = *core;
    world.run(s(1)).assert_active(DUBLIN, crate::model::ServiceState::Degraded);
}

#[test]
fn a_line_of_another_service_is_refused_and_harms_nothing() {
    let world = World::settled(orders());
    let mut core = world.core.clone();
    let nobody = Input::Addresses(MemberId(9), Vec::new());
    assert_eq!(core.replay(world.now, &nobody), Err("it names member 9, and the service has 2".to_owned()));
    let nothing = Input::Probe(PARIS, address(PARIS, 0), CheckId(3), Outcome::Pass(1));
    assert_eq!(core.replay(world.now, &nothing), Err("it names check 3, and member 0 has 1".to_owned()));
    assert_eq!(core, world.core);
}
