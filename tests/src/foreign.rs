//! A `tc` program that is not Redirector's and lets every packet go on: another tool's program beside the agent's, and for
//! the benchmark what measuring a program costs without the program.

use std::{
    borrow::Cow,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, SchedClassifier, loaded_programs};

/// `return TCX_NEXT;` as two instructions of `linux/bpf.h`: opcode, registers, offset, immediate.
const RETURN_NEXT: [[u8; 8]; 2] = [
    // r0 = -1 (BPF_ALU64 | BPF_MOV | BPF_K)
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    // exit (BPF_JMP | BPF_EXIT)
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// Loads it. It is detached and unloaded with the returned value.
///
/// # Errors
/// When the kernel refuses it.
pub fn foreign_program() -> Result<SchedClassifier> {
    let program = load_instructions().context("the empty program does not load")?;
    let info = info(&program)?;
    Ok(SchedClassifier::from_program_info(info, Cow::Borrowed("empty"))?)
}

/// The start of the `union bpf_attr` of `BPF_PROG_LOAD`; the kernel takes what is left out as zeros.
#[repr(C)]
struct Attributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// Not through aya, which takes object files only: an assembler for one program of two instructions is too much.
fn load_instructions() -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: u32 = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let attributes = Attributes {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: 2,
        instructions: RETURN_NEXT.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the kernel reads the attributes, the instructions and the licence, which live until the call returns,
    // and of the attributes no more than the size that it is told.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of_val(&attributes))
    };
    match i32::try_from(result) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel knows of a program: `/proc` has its id.
fn info(program: &OwnedFd) -> Result<ProgramInfo> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    program_info(id.context("the kernel does not tell the program's id")?)
}

/// A loaded program.
///
/// # Errors
/// When it is not loaded any more.
pub fn program_info(id: u32) -> Result<ProgramInfo> {
    loaded_programs()
        // Others come and go while the list is read; an error is about one of those.
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .with_context(|| format!("program {id} is not loaded any more"))
}
