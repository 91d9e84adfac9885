//! A table of nf_tables, replaced or removed in one transaction.

use std::io;

use crate::netlink::{ACK, APPEND, Attributes, BUFFER_SIZE, CREATE, Message, Socket};

// What libc leaves out of linux/netfilter/nf_tables.h.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// Whose table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The socket that made it: nobody else can change it, and it goes when the socket is closed (since Linux 5.12).
    Socket = 2, // NFT_TABLE_F_OWNER
    /// Nobody: it stays until it is removed.
    Nobody = 0,
}

/// A chain that is called for packets at a certain place of their way. Packets that reach its end go on.
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// `nat` or `filter`
    pub(super) kind: &'static str,
    /// `NF_INET_*`
    pub(super) hook: libc::c_int,
    pub(super) priority: libc::c_int,
    pub(super) rules: Vec<Attributes>,
}

/// The kernel's refusal of a transaction, none of which has taken place.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) step: Step,
    pub(super) error: io::Error,
}

/// What the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Any change at all.
    Begin,
    /// To let us have a table of this name.
    Claim,
    /// The removal of what the table held.
    Clear,
    /// A table with this owner.
    Create,
    /// A chain or a rule.
    Fill,
    /// The transaction as such: the socket failed.
    Transport,
}

/// Makes the table have these chains and nothing else. Packets see the old ones, or all of the new ones.
pub(super) fn replace(
    socket: &mut Socket,
    table: &str,
    owner: Owner,
    chains: Vec<Chain>,
) -> Result<(), Refusal> {
    let name = || Attributes::new().str(NFTA_TABLE_NAME, table);
    let owned = name().be32(NFTA_TABLE_FLAGS, owner as u32);
    // A table can only be deleted if it exists, so it is made to exist first.
    let mut steps = vec![
        (Step::Claim, message(libc::NFT_MSG_NEWTABLE, CREATE, &name())),
        (Step::Clear, message(libc::NFT_MSG_DELTABLE, 0, &name())),
        (Step::Create, message(libc::NFT_MSG_NEWTABLE, CREATE, &owned)),
    ];
    for chain in chains {
        let hook = Attributes::new()
            .be32(NFTA_HOOK_HOOKNUM, chain.hook as u32)
            .be32(NFTA_HOOK_PRIORITY, chain.priority as u32);
        let definition = Attributes::new()
            .str(NFTA_CHAIN_TABLE, table)
            .str(NFTA_CHAIN_NAME, chain.name)
            .nested(NFTA_CHAIN_HOOK, &hook)
            .str(NFTA_CHAIN_TYPE, chain.kind);
        steps.push((Step::Fill, message(libc::NFT_MSG_NEWCHAIN, CREATE, &definition)));
        for expressions in chain.rules {
            let rule = Attributes::new()
                .str(NFTA_RULE_TABLE, table)
                .str(NFTA_RULE_CHAIN, chain.name)
                .nested(NFTA_RULE_EXPRESSIONS, &expressions);
            steps.push((Step::Fill, message(libc::NFT_MSG_NEWRULE, CREATE | APPEND, &rule)));
        }
    }
    transact(socket, steps)
}

/// Removes the table; one that does not exist is fine.
pub(super) fn remove(socket: &mut Socket, table: &str) -> Result<(), Refusal> {
    let name = Attributes::new().str(NFTA_TABLE_NAME, table);
    match transact(socket, vec![(Step::Clear, message(libc::NFT_MSG_DELTABLE, 0, &name))]) {
        Err(refusal) if refusal.error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn transact(socket: &mut Socket, steps: Vec<(Step, Message)>) -> Result<(), Refusal> {
    let transport = |error| Refusal { step: Step::Transport, error };
    let (mut kinds, mut messages) = (vec![Step::Begin], vec![batch(libc::NFNL_MSG_BATCH_BEGIN)]);
    for (kind, message) in steps {
        kinds.push(kind);
        messages.push(message);
    }
    messages.push(batch(libc::NFNL_MSG_BATCH_END));
    let first = socket.send_all(messages).map_err(transport)?;

    // Each step is answered, if only to say that it was not at fault.
    let (mut confirmed, mut refusal) = (0, None);
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let answers = match socket.receive(&mut buffer) {
            Ok(answers) => answers,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(transport(error)),
        };
        for answer in answers {
            let step = kinds.get(answer.sequence.wrapping_sub(first) as usize);
            match (step, answer.outcome()) {
                (Some(_), Some(Ok(()))) => confirmed += 1,
                (Some(&step), Some(Err(error))) => {
                    refusal.get_or_insert(Refusal { step, error });
                }
                _ => {}
            }
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None if confirmed + 1 == kinds.len() => Ok(()),
        None => Err(transport(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn message(kind: libc::c_int, flags: u16, attributes: &Attributes) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    let header = [libc::NFPROTO_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0];
    Message::new(kind, ACK | flags, &header, attributes)
}

/// Begins or ends a transaction of nf_tables.
fn batch(kind: libc::c_int) -> Message {
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    let header = [libc::NFPROTO_UNSPEC as u8, libc::NFNETLINK_V0 as u8, high, low];
    Message::new(kind as u16, 0, &header, &Attributes::new())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::sched::{CloneFlags, unshare};

    use super::super::expression::Rule;
    use super::*;

    /// Runs `body` in a network namespace of its own.
    fn in_namespace(body: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test must be run as root: it makes a network namespace");
            // The kernel knows owners by their port, and gives the process's number to the first socket. Were that
            // closed (late, by a program that another test starts), the next one could lose its table.
            let _first = Socket::netfilter().unwrap();
            body();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    fn chain() -> Vec<Chain> {
        vec![Chain {
            name: "forward",
            kind: "filter",
            hook: libc::NF_INET_FORWARD,
            priority: libc::NF_IP_PRI_FILTER,
            rules: vec![Rule::new().entering_by("tun").accept()],
        }]
    }

    /// How many objects of the table the kernel has: itself, and with it everything in it, or nothing.
    fn count(kind: libc::c_int) -> usize {
        let mut socket = Socket::netfilter().unwrap();
        let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
        socket.dump(kind, &[0; 4], &Attributes::new(), |_| Some(())).unwrap().len()
    }

    fn objects() -> [usize; 3] {
        [libc::NFT_MSG_GETTABLE, libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_GETRULE].map(count)
    }

    #[test]
    fn a_table_goes_with_the_socket_that_owns_it() {
        in_namespace(|| {
            let mut socket = Socket::netfilter().unwrap();
            replace(&mut socket, "ours", Owner::Socket, chain()).unwrap();
            assert_eq!(objects(), [1, 1, 1]);
            drop(socket);
            // Another test may be about to start a program, and hold a copy of the socket until it has.
            let deadline = Instant::now() + Duration::from_secs(10);
            while objects() != [0, 0, 0] {
                assert!(Instant::now() < deadline, "the table is still there: {:?}", objects());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }

    #[test]
    fn a_table_without_an_owner_stays_until_it_is_replaced_or_removed() {
        in_namespace(|| {
            let mut crashed = Socket::netfilter().unwrap();
            replace(&mut crashed, "ours", Owner::Nobody, chain()).unwrap();
            replace(&mut crashed, "theirs", Owner::Nobody, chain()).unwrap();
            drop(crashed);
            assert_eq!(objects(), [2, 2, 2]);

            let mut socket = Socket::netfilter().unwrap();
            replace(&mut socket, "ours", Owner::Socket, chain()).unwrap();
            replace(&mut socket, "ours", Owner::Socket, chain()).unwrap();
            assert_eq!(objects(), [2, 2, 2]);
            remove(&mut socket, "ours").unwrap();
            remove(&mut socket, "ours").unwrap();
            assert_eq!(objects(), [1, 1, 1]);
        });
    }

    #[test]
    fn a_transaction_that_is_refused_changes_nothing() {
        in_namespace(|| {
            let mut socket = Socket::netfilter().unwrap();
            replace(&mut socket, "ours", Owner::Socket, chain()).unwrap();
            let nonsense = vec![Chain { kind: "nonsense", ..chain().remove(0) }];
            let refusal = replace(&mut socket, "ours", Owner::Socket, nonsense).unwrap_err();
            assert_eq!(refusal.step, Step::Fill);
            assert_eq!(refusal.error.kind(), io::ErrorKind::NotFound);
            assert_eq!(objects(), [1, 1, 1]);

            let mut stranger = Socket::netfilter().unwrap();
            let refusal = replace(&mut stranger, "ours", Owner::Socket, chain()).unwrap_err();
            assert_eq!(refusal.step, Step::Claim);
            assert_eq!(objects(), [1, 1, 1]);
        });
    }
}
