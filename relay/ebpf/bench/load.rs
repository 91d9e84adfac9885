//! The bench's load for a relay: frames that reach its interface as a network card's driver hands them over, without a
//! socket or a socket buffer. None of this is part of a relay.
//!
//! The kernel runs it on buffers of its own, as if they had come by the loopback interface (`BPF_PROG_TEST_RUN` with live
//! frames). Then it sends: what and when is decided here, because only here there is no system call between two frames. At
//! the interface that it is attached to it counts what comes back.
//!
//! It is one program because the kernel waits for all processors whenever it is to run one that is attached nowhere.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_tail},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

/// The loopback interface always has this index.
const LOOPBACK: u32 = 1;
/// Kinds of frames.
const KINDS: u32 = 1024;
/// Ethernet, IPv4, UDP, channel data, and the mark and number of a flow, in words of 16 bits.
const WORDS: usize = (14 + 20 + 8 + 4 + 8) / 2;
/// Frames that may be overdue. Beyond, the load falls short of what was wanted.
const ARREARS: u64 = 1024;
const SECOND: u64 = 1_000_000_000;

/// What is to be sent.
#[repr(C)]
pub struct Plan {
    /// From when on, in nanoseconds since the system started
    start: u64,
    /// How many a second
    rate: u64,
    /// How many of a kind at once
    run: u64,
    /// How many kinds there are
    kinds: u64,
    /// By which interface
    interface: u64,
}

/// What has been sent.
#[repr(C)]
pub struct Progress {
    sent: u64,
    /// Was due so long that it was given up
    missed: u64,
}

/// Frames of one flow and direction.
#[repr(C)]
pub struct Kind {
    /// All that differs from other kinds
    front: [u16; WORDS],
    /// How many bytes it is shorter than the longest
    shorter_by: u16,
}

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);

#[map]
static PROGRESS: Array<Progress> = Array::with_max_entries(1, 0);

#[map]
static FRAMES: Array<Kind> = Array::with_max_entries(KINDS, 0);

/// How many frames arrived.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[xdp]
pub fn load(context: XdpContext) -> u32 {
    if context.ingress_ifindex() == LOOPBACK as usize {
        generate(&context).unwrap_or(xdp_action::XDP_DROP)
    } else {
        count(&context)
    }
}

/// Makes the next frame out of any other, if one is due.
#[inline(always)]
fn generate(context: &XdpContext) -> Option<u32> {
    let plan = PLAN.get(0)?;
    // SAFETY: one thread alone has this program run.
    let progress = unsafe { &mut *PROGRESS.get_ptr_mut(0)? };
    // SAFETY: has no arguments.
    let elapsed = unsafe { bpf_ktime_get_ns() }.saturating_sub(plan.start);
    let (run, kinds) = (plan.run.max(1), plan.kinds.max(1));
    let due = elapsed * plan.rate / SECOND / run * run - progress.missed;
    if due <= progress.sent {
        return None;
    }
    progress.missed += (due - progress.sent).saturating_sub(ARREARS);
    let kind = FRAMES.get((progress.sent / run % kinds) as u32)?;
    if context.data() + 2 * WORDS > context.data_end() {
        return None;
    }
    // SAFETY: inside of the frame by the check, and aligned to two bytes.
    unsafe { *(context.data() as *mut [u16; WORDS]) = kind.front };
    // SAFETY: the context is the kernel's; nothing refers to the frame any more.
    let cut = unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), -i32::from(kind.shorter_by)) };
    if cut != 0 {
        return None;
    }
    progress.sent += 1;
    // SAFETY: has no arguments that could be wrong.
    Some(unsafe { bpf_redirect(plan.interface as u32, 0) } as u32)
}

/// Counts and drops frames of the load, whichever way they go; all else passes.
#[inline(always)]
fn count(context: &XdpContext) -> u32 {
    const IPV4: u16 = 0x0800_u16.to_be();
    const UDP: u8 = 17;
    const MARK: [u16; 2] = [u16::from_ne_bytes(*b"lo"), u16::from_ne_bytes(*b"ad")];
    if context.data() + 2 * WORDS - 4 > context.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: inside of the frame by the check, and aligned to two bytes.
    let front = unsafe { &*(context.data() as *const [u16; WORDS - 2]) };
    let is_marked = front[21..23] == MARK || front[23..25] == MARK;
    if front[6] != IPV4 || front[11].to_ne_bytes()[1] != UDP || !is_marked {
        return xdp_action::XDP_PASS;
    }
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's alone, and nothing else of this program runs on it meanwhile.
        unsafe { *arrived += 1 };
    }
    xdp_action::XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the relay's program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
