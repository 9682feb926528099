//! The maps. `redirector-common` documents their layout; names carry its version.

use aya_ebpf::{
    EbpfContext,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
};
use redirector_common::{
    addr::{Addr, Tuple},
    decision::Decision,
    flow::{Flow, Standing, Stub},
    layout::{
        Continuation, FragmentKey, Fragments, MAX_FRAGMENTS, MAX_HALF_OPEN_SOURCES, MAX_MEMBERS,
        MAX_SERVICES, MAX_VIPS, Meta, Name, SLOTS, Service, Slot, SourceKey, VipKey, slot_index,
    },
    outcome::{Count, Outcome, counter_index},
    rate::Rate,
};

use crate::{inject::List, kernel};

mod pulses;
pub use pulses::{Words, count_answer, pulse, report};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_NOEXIST: u64 = 1;

#[map(name = "vips_v4")]
static VIPS: HashMap<VipKey, u32> = HashMap::with_max_entries(MAX_VIPS, 0);

#[map(name = "vip_addrs_v4")]
static VIP_ADDRESSES: HashMap<Addr, u32> = HashMap::with_max_entries(MAX_VIPS, 0);

#[map(name = "decisions_v4")]
static DECISIONS: Array<u64> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);

#[map(name = "services_v4")]
static SERVICES: Array<Service> = Array::with_max_entries(MAX_SERVICES, 0);

#[map(name = "floors_v4")]
static FLOORS: Array<u64> = Array::with_max_entries(MAX_MEMBERS, BPF_F_MMAPABLE);

#[map(name = "slots_v4")]
static SLOT_TABLE: Array<Slot> = Array::with_max_entries(MAX_MEMBERS * SLOTS, 0);

/// The agent sets the size that the configuration asks for. Allocated in advance: no allocation on the packet path.
#[map(name = "flows_v4")]
static FLOWS: HashMap<Tuple, Flow> = HashMap::with_max_entries(262_144, 0);

/// As many stubs as flows.
#[map(name = "replies_v4")]
static REPLIES: HashMap<Tuple, Stub> = HashMap::with_max_entries(262_144, 0);

#[map(name = "half_open_v4")]
static HALF_OPEN: HashMap<SourceKey, i64> = HashMap::with_max_entries(MAX_HALF_OPEN_SOURCES, 0);

#[map(name = "half_open_sums_v4")]
static HALF_OPEN_SUMS: Array<i64> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);

#[map(name = "fragments_v4")]
static FRAGMENTS: LruHashMap<FragmentKey, Fragments> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

#[map(name = "l3_devices_v4")]
static L3_DEVICES: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

#[map(name = "continuations_v4")]
static CONTINUATIONS: ProgramArray = ProgramArray::with_max_entries(16, 0);

#[map(name = "outcomes_v4")]
static OUTCOMES: PerCpuArray<Count> =
    PerCpuArray::with_max_entries((MAX_MEMBERS + 1) * Outcome::ALL.len() as u32, 0);

#[map(name = "opens_v4")]
static OPENS: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);

/// Not for programs: the agent keeps here which id belongs to which name.
#[map(name = "names_v4")]
static NAMES: Array<Name> = Array::with_max_entries(MAX_SERVICES + MAX_MEMBERS, 0);

/// Not for programs: whose maps these are.
#[map(name = "meta_v4")]
static META: Array<Meta> = Array::with_max_entries(1, 0);

/// A new flow and its stub are put together here: a program's stack has 512 bytes.
#[map(name = "draft")]
static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// See [`draft`].
#[repr(C)]
pub struct Draft {
    pub flow: Flow,
    pub stub: Stub,
}

/// What the agent asked for; a list is worked off by one program after the other, on one processor.
#[map(name = "list")]
static LIST: PerCpuArray<List> = PerCpuArray::with_max_entries(1, 0);

/// The service of a VIP.
#[inline(always)]
pub fn service_of(vip: &VipKey) -> Option<u16> {
    // SAFETY: the value is one word that is never written in place.
    unsafe { VIPS.get(vip) }.map(|id| *id as u16)
}

/// Whether an address belongs to Redirector, on every port.
#[inline(always)]
pub fn is_vip_address(address: &Addr) -> bool {
    VIP_ADDRESSES.get_ptr(address).is_some()
}

/// Where new flows of a service go now, read in one load.
#[inline(always)]
pub fn decision(service: u16) -> Decision {
    let Some(word) = DECISIONS.get_ptr(u32::from(service)) else { return Decision::default() };
    // SAFETY: the map lookup gave a valid, aligned pointer. Volatile, because the agent stores at any moment and a
    // second read must be one.
    Decision::from_word(unsafe { word.read_volatile() })
}

/// When a service's lease ends, in nanoseconds of `CLOCK_BOOTTIME`; 0: never.
#[inline(always)]
pub fn deadline(service: u16) -> u64 {
    SERVICES.get_ptr(u32::from(service)).map_or(0, |service| {
        // SAFETY: as in `decision`.
        unsafe { (&raw const (*service).deadline).read_volatile() }
    })
}

/// The cap on new connections of a service, and when the next one would come if all kept it.
#[inline(always)]
pub fn rate(service: u32) -> Option<(Rate, Moment)> {
    let known = SERVICES.get_ptr(service)?;
    // SAFETY: as in `decision`.
    let rate = unsafe {
        Rate {
            interval: (&raw const (*known).opens_interval_ns).read_volatile(),
            burst: (&raw const (*known).opens_burst_ns).read_volatile(),
        }
    };
    Some((rate, Moment(OPENS.get_ptr_mut(service)?)))
}

/// A moment that programs of all processors move on.
#[derive(Clone, Copy)]
pub struct Moment(*mut u64);

impl Moment {
    /// What it is now.
    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: a map lookup gave the pointer, and the memory is valid until the program ends.
        unsafe { self.0.read_volatile() }
    }

    /// Moves it on, unless somebody did since it was `old`. Returns whether it did.
    #[inline(always)]
    pub fn replace(self, old: u64, new: u64) -> bool {
        // SAFETY: as in `get`.
        unsafe { kernel::compare_exchange(self.0, old, new) }
    }
}

/// One address of a member; an empty slot is not offered.
#[inline(always)]
pub fn slot(member: u16, slot: u32) -> Option<&'static Slot> {
    SLOT_TABLE.get(slot_index(member, slot))
}

/// What decides whether a flow is stale.
#[inline(always)]
pub fn standing(flow: &Flow) -> Standing {
    Standing {
        // SAFETY: as in `decision`.
        floor: FLOORS.get_ptr(u32::from(flow.member)).map_or(0, |floor| unsafe { floor.read_volatile() }),
        generation: SLOT_TABLE.get(slot_index(flow.member, flow.slot)).map_or(0, |slot| slot.generation),
    }
}

/// The entry of a flow. Programs change single words of it in place.
#[inline(always)]
pub fn flow(client_side: &Tuple) -> Option<&'static mut Flow> {
    // SAFETY: the memory is valid until the program ends. Another processor may carry a segment of the same flow;
    // each field that changes is one aligned word, written by one direction only. Another processor may also end the
    // flow, and the entry be given to another one at once: see `incarnation_now`.
    FLOWS.get_ptr_mut(client_side).map(|flow| unsafe { &mut *flow })
}

/// Whose entry this is now, read after everything that the program copied out of it before.
#[inline(always)]
pub fn incarnation_now(flow: &Flow) -> u64 {
    // A compiler barrier: what was read before stays before. (This target has no `compiler_fence`.)
    let flow = core::hint::black_box(&raw const *flow);
    // SAFETY: it was a reference; volatile, because the value may have changed.
    unsafe { (&raw const (*flow).incarnation).read_volatile() }
}

/// Whether the other half of a flow is there and belongs to it.
#[inline(always)]
pub fn has_stub(member_side: &Tuple, incarnation: u64) -> bool {
    stub(member_side).is_some_and(|stub| stub.incarnation == incarnation)
}

/// What a reply's tuple leads to.
#[inline(always)]
pub fn stub(member_side: &Tuple) -> Option<&'static Stub> {
    // SAFETY: the memory is valid until the program ends, and programs never write a stub in place. What it leads to
    // is checked against the entry's incarnation.
    unsafe { REPLIES.get(member_side) }
}

/// Room on this processor to put a flow together.
#[inline(always)]
pub fn draft() -> Option<&'static mut Draft> {
    // SAFETY: programs of one hook do not interrupt each other on one processor, and one program asks once.
    DRAFT.get_ptr_mut(0).map(|draft| unsafe { &mut *draft })
}

/// Room on this processor for a list of flows.
#[inline(always)]
pub fn list() -> Option<&'static mut List> {
    // SAFETY: as in `draft`.
    LIST.get_ptr_mut(0).map(|list| unsafe { &mut *list })
}

/// Why an entry was not made.
pub enum Refused {
    /// There is one already.
    Exists,
    /// The table is full.
    Full,
}

impl Refused {
    fn of(errno: i32) -> Self {
        const EEXIST: i32 = -17;
        if errno == EEXIST { Self::Exists } else { Self::Full }
    }
}

/// Takes a member-side tuple, unless a flow has it.
#[inline(always)]
pub fn insert_stub(member_side: &Tuple, stub: &Stub) -> Result<(), Refused> {
    REPLIES.insert(member_side, stub, BPF_NOEXIST).map_err(Refused::of)
}

/// Makes a flow's entry, unless there is one.
#[inline(always)]
pub fn insert_flow(client_side: &Tuple, flow: &Flow) -> Result<(), Refused> {
    FLOWS.insert(client_side, flow, BPF_NOEXIST).map_err(Refused::of)
}

/// Gives a member-side tuple back.
#[inline(always)]
pub fn remove_stub(member_side: &Tuple) {
    let _gone_already = REPLIES.remove(member_side);
}

/// A number in a map that programs of all processors count in.
#[derive(Clone, Copy)]
pub struct Counter(*mut i64);

impl Counter {
    /// What it says now.
    #[inline(always)]
    pub fn get(self) -> i64 {
        // SAFETY: a map lookup gave the pointer, and the memory is valid until the program ends.
        unsafe { self.0.read_volatile() }
    }

    /// Adds to it, atomically.
    #[inline(always)]
    pub fn add(self, number: i64) {
        // SAFETY: as in `get`.
        unsafe { kernel::atomic_add(self.0, number) }
    }
}

/// How many flows of a source are half open; `None`: none was counted so far.
#[inline(always)]
pub fn half_open(key: &SourceKey) -> Option<Counter> {
    HALF_OPEN.get_ptr_mut(key).map(Counter)
}

/// Begins to count a source, with 1. A full map counts nobody more.
#[inline(always)]
pub fn insert_half_open(key: &SourceKey) {
    let _counts_for_its_service_only = HALF_OPEN.insert(key, 1, BPF_NOEXIST);
}

/// How many flows of a service are half open.
#[inline(always)]
pub fn half_open_sum(service: u32) -> Option<Counter> {
    HALF_OPEN_SUMS.get_ptr_mut(service).map(Counter)
}

/// Whether a device has no Ethernet header.
#[inline(always)]
pub fn is_l3(device: u32) -> bool {
    L3_DEVICES.get_ptr(device).is_some()
}

/// What the first fragment said.
#[inline(always)]
pub fn fragments(key: &FragmentKey) -> Option<Fragments> {
    // SAFETY: the memory is valid until the program ends. An entry may be given to another segment meanwhile: whose the
    // copy is, its incarnation says.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Remembers what the first fragment said.
#[inline(always)]
pub fn set_fragments(key: &FragmentKey, fragments: &Fragments) {
    let _the_next_ones_are_unknown = FRAGMENTS.insert(key, fragments, 0);
}

/// Forgets a flow, both halves. The stub goes first: a reply that still comes is then nobody's. One that was lost, and
/// whose tuple another flow has taken since, stays.
#[inline(always)]
pub fn remove(client_side: &Tuple, member_side: &Tuple, incarnation: u64) {
    if has_stub(member_side, incarnation) {
        remove_stub(member_side);
    }
    let _gone_already = FLOWS.remove(client_side);
}

/// Hands the packet on to another program. Comes back only when that program is not there.
#[inline(always)]
pub fn continue_in(ctx: &impl EbpfContext, program: Continuation) {
    // SAFETY: the map holds programs of this object only, which take the same context.
    unsafe { CONTINUATIONS.tail_call(ctx, program as u32) };
}

/// Counts a packet.
#[inline(always)]
pub fn count(outcome: Outcome, member: Option<u16>, bytes: u32) {
    let of_member = OUTCOMES.get_ptr_mut(counter_index(outcome, member));
    // A flow of a member that cannot be is counted without one.
    if let Some(count) = of_member.or_else(|| OUTCOMES.get_ptr_mut(counter_index(outcome, None))) {
        // SAFETY: the element belongs to this processor, and nothing interrupts the program on it.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(bytes);
        }
    }
}

/// A number for a new entry, see [`Flow::incarnation`].
#[inline(always)]
pub fn new_incarnation(client_side: &Tuple) -> u64 {
    u64::from(client_side.fingerprint()) << 32 | u64::from(kernel::random())
}
