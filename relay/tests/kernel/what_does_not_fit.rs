//! What the program has no room for, user space relays.

use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::loaded_programs;

use crate::client::Client;
use crate::network::{Peer, flags, lay, reach, relayed};
use crate::support::{Network, RELAY};

const CHANNEL: u16 = 0x4001;
/// In words: an address, a port, a tag, a family and what is reserved.
const LEG: usize = 12;

type Legs = HashMap<MapData, [u16; LEG], [u16; LEG]>;

#[test]
fn bindings_beyond_those_to_clients() {
    check("PEERS");
}

#[test]
fn bindings_beyond_those_to_peers() {
    check("CHANNELS");
}

fn check(table: &str) {
    let Some((network, _cable)) = lay() else { return };
    let _relay = network.start(&flags("native"));
    let before = bound(&network);
    assert_relayed(&network, &before, true);

    let mut table = table_of_the_relay(&network, table);
    let number_of = |number: u32| {
        // Of no family that there is.
        let [high, low] = [number >> 16, number & 0xffff].map(|half| half as u16);
        [high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    let mut numbers = 0..;
    while table.insert(number_of(numbers.next().unwrap()), [0; LEG], 0).is_ok() {}
    assert!(numbers.start > 1000);
    let beyond = bound(&network);
    assert_relayed(&network, &beyond, false);
    assert_relayed(&network, &before, true);

    for number in 0..10 {
        table.remove(&number_of(number)).unwrap();
    }
    assert_relayed(&network, &bound(&network), true);
}

/// A client with an allocation, and a peer that a channel is bound to.
fn bound(network: &Network) -> (Client, Peer, u16) {
    let mut client = Client::anna(&network.client, RELAY);
    let peer = Peer::new(network, true);
    let port = client.allocate();
    assert_eq!(client.bind(CHANNEL, peer.address), None);
    reach(&client, CHANNEL, &peer, port);
    (client, peer, port)
}

/// Datagrams go there and back, by the program or all by user space.
fn assert_relayed(network: &Network, standing: &(Client, Peer, u16), by_program: bool) {
    let (client, peer, port) = standing;
    let before = relayed(network, "xdp");
    reach(client, CHANNEL, peer, *port);
    let counted = relayed(network, "xdp") - before;
    assert!(if by_program { counted >= 2 } else { counted == 0 }, "{counted} by the program");
}

/// A table of the program on the relay's interface.
fn table_of_the_relay(network: &Network, name: &str) -> Legs {
    let link = network.relay.ip("link show dev eth0").unwrap();
    let mut words = link.split_ascii_whitespace().skip_while(|word| *word != "prog/xdp");
    let id: u32 = words.nth(2).unwrap().parse().unwrap();
    let program = loaded_programs().map(Result::unwrap).find(|program| program.id() == id).unwrap();
    let mut maps = program.map_ids().unwrap().unwrap().into_iter();
    let id = maps.find(|id| MapInfo::from_id(*id).unwrap().name_as_str() == Some(name)).unwrap();
    Map::HashMap(MapData::from_id(id).unwrap()).try_into().unwrap()
}
