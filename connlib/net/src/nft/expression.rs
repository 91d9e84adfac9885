//! Rules of nf_tables: a rule is a list of expressions, and ends as soon as one does not match.
//!
//! Each expression works on registers; all of ours load into the first and compare there at once. The numbers are those
//! of `linux/netfilter/nf_tables.h`, in network byte order; what is compared is bytes as they stand in the register.

use ipnet::IpNet;

use crate::netlink::{Attributes, ip_to_bytes};

// Attributes, by the expression that they belong to.
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// Where the source address stands in the two IP headers: offset and length.
const IPV4_SOURCE: (u32, u32) = (12, 4);
const IPV6_SOURCE: (u32, u32) = (8, 16);
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)`
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// The expressions of one rule, all of which must match.
#[derive(Default)]
pub(super) struct Rule(Attributes);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The packet comes from an address in `prefix`.
    pub(super) fn of_source(self, prefix: IpNet) -> Self {
        let (family, (offset, len)) = match prefix {
            IpNet::V4(_) => (libc::NFPROTO_IPV4, IPV4_SOURCE),
            IpNet::V6(_) => (libc::NFPROTO_IPV6, IPV6_SOURCE),
        };
        let source = Attributes::new()
            .be32(NFTA_PAYLOAD_DREG, REGISTER)
            .be32(NFTA_PAYLOAD_BASE, libc::NFT_PAYLOAD_NETWORK_HEADER as u32)
            .be32(NFTA_PAYLOAD_OFFSET, offset)
            .be32(NFTA_PAYLOAD_LEN, len);
        self.load_meta(libc::NFT_META_NFPROTO)
            .compare(libc::NFT_CMP_EQ, &[family as u8])
            .push("payload", &source)
            .and(&ip_to_bytes(prefix.netmask()))
            .compare(libc::NFT_CMP_EQ, &ip_to_bytes(prefix.network()))
    }

    /// The packet came in by the interface of this name.
    pub(super) fn entering_by(self, interface: &str) -> Self {
        self.load_meta(libc::NFT_META_IIFNAME).compare(libc::NFT_CMP_EQ, &padded(interface))
    }

    /// The packet leaves by the interface of this name.
    pub(super) fn leaving_by(self, interface: &str) -> Self {
        self.load_meta(libc::NFT_META_OIFNAME).compare(libc::NFT_CMP_EQ, &padded(interface))
    }

    /// The packet leaves by any other interface.
    pub(super) fn not_leaving_by(self, interface: &str) -> Self {
        self.load_meta(libc::NFT_META_OIFNAME).compare(libc::NFT_CMP_NEQ, &padded(interface))
    }

    /// The packet belongs to a flow that was let through before, or is an ICMP error about one.
    pub(super) fn established_or_related(self) -> Self {
        let state = Attributes::new()
            .be32(NFTA_CT_DREG, REGISTER)
            .be32(NFTA_CT_KEY, libc::NFT_CT_STATE as u32);
        self.push("ct", &state)
            .and(&ESTABLISHED_OR_RELATED.to_ne_bytes())
            .compare(libc::NFT_CMP_NEQ, &[0; 4])
    }

    /// Ends with: the source becomes an address of the interface by which the packet leaves.
    pub(super) fn masquerade(self) -> Attributes {
        self.push("masq", &Attributes::new()).0
    }

    /// Ends with: no further rule of this chain is looked at.
    pub(super) fn accept(self) -> Attributes {
        self.verdict(libc::NF_ACCEPT)
    }

    /// Ends with: the packet is no more.
    pub(super) fn drop(self) -> Attributes {
        self.verdict(libc::NF_DROP)
    }

    fn verdict(self, code: libc::c_int) -> Attributes {
        let verdict = Attributes::new().be32(NFTA_VERDICT_CODE, code as u32);
        let immediate = Attributes::new()
            .be32(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32)
            .nested(NFTA_IMMEDIATE_DATA, &Attributes::new().nested(NFTA_DATA_VERDICT, &verdict));
        self.push("immediate", &immediate).0
    }

    fn load_meta(self, key: libc::c_int) -> Self {
        let meta = Attributes::new().be32(NFTA_META_DREG, REGISTER).be32(NFTA_META_KEY, key as u32);
        self.push("meta", &meta)
    }

    fn and(self, mask: &[u8]) -> Self {
        let bitwise = Attributes::new()
            .be32(NFTA_BITWISE_SREG, REGISTER)
            .be32(NFTA_BITWISE_DREG, REGISTER)
            .be32(NFTA_BITWISE_LEN, mask.len() as u32)
            .nested(NFTA_BITWISE_MASK, &value(mask))
            .nested(NFTA_BITWISE_XOR, &value(&vec![0; mask.len()]));
        self.push("bitwise", &bitwise)
    }

    fn compare(self, operator: libc::c_int, with: &[u8]) -> Self {
        let compare = Attributes::new()
            .be32(NFTA_CMP_SREG, REGISTER)
            .be32(NFTA_CMP_OP, operator as u32)
            .nested(NFTA_CMP_DATA, &value(with));
        self.push("cmp", &compare)
    }

    fn push(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().str(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data);
        Self(self.0.nested(NFTA_LIST_ELEM, &expression))
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(NFTA_DATA_VALUE, bytes)
}

/// An interface's name as the register holds it.
fn padded(interface: &str) -> Vec<u8> {
    let mut name = interface.as_bytes().to_vec();
    name.resize(libc::IFNAMSIZ, 0);
    name
}
