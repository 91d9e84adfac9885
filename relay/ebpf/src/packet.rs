//! The bytes of a packet.

use core::marker::PhantomData;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use connlib_relay_xdp_types::{Ethernet, EthernetAddress};

/// The shortest frame that Ethernet carries, without its checksum.
const SHORTEST_FRAME: usize = 60;
/// Beyond any frame's length that fits a page, and a bound that the verifier can work with.
pub const LONGEST: u16 = 0x3fff;

/// A packet in the buffer of its driver.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    context: *mut xdp_md,
    of: PhantomData<&'a XdpContext>,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context: context.as_ptr().cast(), of: PhantomData }
    }

    #[inline(always)]
    pub fn context(self) -> *mut xdp_md {
        self.context
    }

    /// The interface it came by.
    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// Whether the frame has so many bytes.
    #[inline(always)]
    pub fn has(self, bytes: usize) -> bool {
        self.start() + bytes <= self.end()
    }

    /// Whether Ethernet brought it for one of these. An interface may see more: what is flooded by a switch, or all there is if
    /// somebody listens. Which of ours it came by does not matter: to the program below a bond, that is another one.
    #[inline(always)]
    pub fn is_to(self, own: &Ethernet) -> bool {
        self.front().is_some_and(|destination: &EthernetAddress| own.contains(*destination))
    }

    /// Its first words, if it is that long.
    #[inline(always)]
    pub fn front<const WORDS: usize>(self) -> Option<&'a [u16; WORDS]> {
        // SAFETY: inside of the packet by the check. Buffers and all shapes are aligned to two bytes.
        self.has(2 * WORDS).then(|| unsafe { &*(self.start() as *const _) })
    }

    /// Its first words, to be written. All that was borrowed of the packet before must be out of use.
    #[inline(always)]
    pub fn front_mut<const WORDS: usize>(self) -> Option<&'a mut [u16; WORDS]> {
        // SAFETY: as above; this program is alone with the packet.
        self.has(2 * WORDS).then(|| unsafe { &mut *(self.start() as *mut _) })
    }

    /// The byte behind an offset.
    #[inline(always)]
    pub fn byte_behind(self, offset: u16) -> Option<u8> {
        // The verifier follows a comparison with the end only at some distance behind what is variable.
        let before = self.start() + usize::from(offset & LONGEST);
        // SAFETY: inside of the packet by the check.
        (before + 2 <= self.end()).then(|| unsafe { *((before + 1) as *const u8) })
    }

    /// Takes bytes from its front or, if negative, adds some. Whether that was possible; if not, it is as before.
    #[inline(always)]
    pub fn shrink_front(self, bytes: i32) -> bool {
        // SAFETY: the context is the kernel's. No reference into the packet outlives the call: the verifier would refuse
        // the program.
        bytes == 0 || unsafe { bpf_xdp_adjust_head(self.context, bytes) } == 0
    }

    /// Takes bytes from its end, unless that makes it too short. Where they stay, they are behind what the IP header counts,
    /// and are ignored by whoever gets them.
    #[inline(always)]
    pub fn trim(self, bytes: u16) {
        if bytes != 0 && self.has(SHORTEST_FRAME + usize::from(bytes)) {
            // SAFETY: as above.
            unsafe { bpf_xdp_adjust_tail(self.context, -i32::from(bytes)) };
        }
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { (*self.context).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { (*self.context).data_end as usize }
    }
}
