//! What is said of a configuration that does not fit the host.

use super::{resolving::loaded, *};
use crate::model::{MemberId, ServiceId};

#[test]
fn what_does_not_fit_is_said_with_its_place() {
    let (service, member) = (ServiceId(0), MemberId(1));
    let mut loaded = loaded(r#"["10.255.0.1:1", "[fd00:255::1]:1"]"#, ["10.2.1.2:6379", "[fd00:3::2]:6379"]);
    assert_eq!(loaded.misfits(&[]), None);
    let address = "[fd00:3::2]:6379".parse().unwrap();
    let mut table = Vec::new();
    for misfit in [
        Misfit::VipIsOwn { service, vip: 1 },
        Misfit::VipIsRouted { service, vip: 0, device: Some("redirector1".to_owned()) },
        Misfit::VipIsRouted { service, vip: 0, device: None },
    ] {
        assert_eq!(loaded.warnings(std::slice::from_ref(&misfit)), [] as [&str; 0]);
        table.push(loaded.misfits(&[misfit]).unwrap().to_string());
    }
    let late = Misfit::NoRoute { service, member, address };
    assert_eq!(loaded.misfits(std::slice::from_ref(&late)), None, "routes come late");
    table.extend(loaded.warnings(&[late]));
    loaded = parse(
        Path::new("redirector.toml"),
        &format!(
            "datapath.uplinks = [\"eth0\", \"eth9\"]\ndatapath.source_addresses = [\"10.1.0.3\"]\n{MINIMAL}"
        ),
    )
    .unwrap();
    table.push(
        parse(Path::new("redirector.toml"), &format!("agent.operator_group = \"operators\"\n{MINIMAL}"))
            .unwrap()
            .misfits(&[Misfit::NoOperatorGroup])
            .unwrap()
            .to_string(),
    );
    let source = "10.1.0.3".parse().unwrap();
    table.extend(loaded.warnings(&[Misfit::NoUplink { uplink: 1 }, Misfit::NoSource { source }]));
    insta::assert_snapshot!(table.join("\n"));
}
