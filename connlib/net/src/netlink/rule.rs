//! Policy routing rules that send all packets without our mark through our tables.

use std::collections::BTreeSet;
use std::io;

use super::message::{ACK, Attributes, CREATE, EXCLUSIVE, Message, attributes, u32_at};
use super::route::PROTOCOL;
use super::socket::Socket;

/// `struct fib_rule_hdr`: family, prefix lengths, TOS, table, two reserved bytes, action, flags.
const FIB_RULE_HDR_LEN: usize = 12;
const FLAGS_OFFSET: usize = 8;

// From linux/fib_rules.h, which libc leaves out.
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;

/// "Packets with (or, inverted, without) this mark look into this table."
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) table: u32,
    pub(crate) mark: u32,
    pub(crate) mask: u32,
    pub(crate) is_inverted: bool,
}

/// Makes `wanted` the only rules that lead to `tables`, for one address family.
pub(crate) fn replace(
    socket: &mut Socket,
    family: u8,
    tables: &[u32],
    wanted: &BTreeSet<Rule>,
) -> io::Result<()> {
    let mut current = BTreeSet::new();
    let mut surplus = Vec::new();
    let listed =
        socket.dump(libc::RTM_GETRULE, &header(family, 0, 0), &Attributes::new(), |message| {
            parse(message.payload, family)
        })?;
    for rule in listed.into_iter().filter(|rule| tables.contains(&rule.table)) {
        if !wanted.contains(&rule) || !current.insert(rule) {
            surplus.push(rule);
        }
    }
    for rule in wanted.difference(&current) {
        match socket
            .request(request(libc::RTM_NEWRULE, ACK | CREATE | EXCLUSIVE, family, rule), |_| {})
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    for rule in &surplus {
        match socket.request(request(libc::RTM_DELRULE, ACK, family, rule), |_| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

fn request(kind: u16, flags: u16, family: u8, rule: &Rule) -> Message {
    let invert = if rule.is_inverted { FIB_RULE_INVERT } else { 0 };
    let mut attributes = Attributes::new()
        .u32(FRA_PRIORITY, rule.priority)
        .u32(FRA_FWMARK, rule.mark)
        .u32(FRA_FWMASK, rule.mask)
        .u32(FRA_TABLE, rule.table);
    // What is left over and to be deleted may have another protocol.
    if kind == libc::RTM_NEWRULE {
        attributes = attributes.bytes(FRA_PROTOCOL, &[PROTOCOL]);
    }
    Message::new(kind, flags, &header(family, FR_ACT_TO_TBL, invert), &attributes)
}

fn header(family: u8, action: u8, flags: u32) -> [u8; FIB_RULE_HDR_LEN] {
    let mut header = [family, 0, 0, 0, 0, 0, 0, action, 0, 0, 0, 0];
    header[FLAGS_OFFSET..].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn parse(payload: &[u8], wanted_family: u8) -> Option<Rule> {
    let &[family, _, _, _, table, _, _, action, ..] = payload else { return None };
    if family != wanted_family || action != FR_ACT_TO_TBL {
        return None;
    }
    let is_inverted = u32_at(payload, FLAGS_OFFSET)? & FIB_RULE_INVERT != 0;
    let mut rule = Rule { priority: 0, table: u32::from(table), mark: 0, mask: 0, is_inverted };
    for (kind, value) in attributes(payload, FIB_RULE_HDR_LEN) {
        match kind {
            FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
            FRA_FWMARK => rule.mark = u32_at(value, 0)?,
            FRA_FWMASK => rule.mask = u32_at(value, 0)?,
            FRA_TABLE => rule.table = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(rule)
}
