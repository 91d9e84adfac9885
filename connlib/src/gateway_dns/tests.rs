use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use connlib_dns::{Deframer, frame};
use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::*;

#[tokio::test]
async fn queries_are_answered_by_udp_and_tcp() {
    let lab = Lab::new(&[Resolver::start("the answer").await]);
    let client = lab.client().await;
    assert_eq!(client.ask_udp(1).await.texts(), ["the answer"]);
    let mut connection = client.connect().await;
    // Several on one connection, the client having said all that it wants to say.
    connection.write_all(&[framed(2), framed(3)].concat()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).await.unwrap();
    let answers = deframed(&bytes);
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(answer.texts(), ["the answer"]);
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
    let lab = Lab::new(&[Resolver::start(&"long ".repeat(400)).await]);
    let client = lab.client().await;
    let cut = client.ask_udp(1).await.0;
    assert!(cut.metadata.truncation);
    assert!(cut.to_vec().unwrap().len() <= MAX_UDP_ANSWER);

    let mut connection = client.connect().await;
    connection.write_all(&framed(2)).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(deframed(&bytes)[0].texts(), ["long ".repeat(400)]);
}

#[tokio::test]
async fn a_server_that_fails_costs_one_query() {
    let dead = UdpSocket::bind(HERE).await.unwrap().local_addr().unwrap();
    let alive = Resolver::start("alive").await;
    let lab = Lab::of(&[dead, alive.address]);
    let client = lab.client().await;
    assert_eq!(client.ask_udp(1).await.code(), ResponseCode::ServFail);
    assert_eq!(client.ask_udp(2).await.texts(), ["alive"]);
}

#[tokio::test]
async fn without_servers_the_client_learns_so_at_once() {
    let lab = Lab::of(&[]);
    let client = lab.client().await;
    assert_eq!(client.ask_udp(1).await.code(), ResponseCode::ServFail);
    let resolver = Resolver::start("now there is one").await;
    lab.server.set_servers(&[resolver.address]);
    assert_eq!(client.ask_udp(2).await.texts(), ["now there is one"]);
}

#[tokio::test]
async fn strangers_are_not_served() {
    let resolver = Resolver::start("for clients").await;
    let lab = Lab::new(std::slice::from_ref(&resolver));
    let client = lab.client().await;
    let stranger = Client::at([127, 0, 0, 1].into(), lab.address).await;
    stranger.socket.send_to(&query(1), stranger.server).await.unwrap();
    let refused = stranger.connect().await.read(&mut [0; 16]).await;
    assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
    assert_eq!(client.ask_udp(2).await.texts(), ["for clients"]);
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_client_cannot_use_up_what_is_there_for_all() {
    let silent = UdpSocket::bind(HERE).await.unwrap();
    let lab = Lab::of(&[silent.local_addr().unwrap()]);
    let greedy = lab.client().await;
    for id in 0..=IN_FLIGHT_PER_CLIENT as u16 {
        greedy.socket.send_to(&query(id), greedy.server).await.unwrap();
    }
    // All but the last wait for the server.
    assert_eq!(greedy.receive().await.code(), ResponseCode::ServFail);

    let resolver = Resolver::start("for others").await;
    lab.server.set_servers(&[resolver.address]);
    let other = Client::at(lab.other_client, lab.address).await;
    assert_eq!(other.ask_udp(1).await.texts(), ["for others"]);
}

#[tokio::test]
async fn garbage_costs_nobody_else_anything() {
    let lab = Lab::new(&[Resolver::start("still here").await]);
    let client = lab.client().await;
    client.socket.send_to(b"no query", client.server).await.unwrap();
    let mut connection = client.connect().await;
    connection.write_all(&[0xff; 600]).await.unwrap();
    let mut bytes = Vec::new();
    let end = connection.read_to_end(&mut bytes).await;
    assert!(end.is_err() || bytes.is_empty());
    assert_eq!(client.ask_udp(1).await.texts(), ["still here"]);
}

#[tokio::test]
async fn addresses_can_change() {
    let lab = Lab::new(&[Resolver::start("moved").await]);
    assert_eq!(lab.client().await.ask_udp(1).await.texts(), ["moved"]);
    lab.server.set_addresses(vec![lab.other_client]);
    let moved = Client::at(lab.address, lab.other_client).await;
    assert_eq!(moved.ask_udp(2).await.texts(), ["moved"]);
    let gone = TcpStream::connect((lab.address, GATEWAY_DNS_PORT)).await;
    assert!(gone.is_err());
}

const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const DEADLINE: Duration = Duration::from_secs(20);

/// A gateway on a loopback address of its own, and addresses for its clients.
struct Lab {
    server: DnsServer,
    address: IpAddr,
    other_client: IpAddr,
}

impl Lab {
    fn new(resolvers: &[Resolver]) -> Self {
        Self::of(&resolvers.iter().map(|resolver| resolver.address).collect::<Vec<_>>())
    }

    fn of(servers: &[SocketAddr]) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        // Other test processes use other addresses: the port is always the same.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let number = 2 * COUNT.fetch_add(1, Ordering::Relaxed);
        let address = |number| IpAddr::from([127, 100 + number, high, low]);
        let server = DnsServer::start_for(|ip| ip != Ipv4Addr::LOCALHOST, [7; 32], servers);
        server.set_addresses(vec![address(number)]);
        Self { server, address: address(number), other_client: address(number + 1) }
    }

    /// Once the server listens.
    async fn client(&self) -> Client {
        while TcpStream::connect((self.address, GATEWAY_DNS_PORT)).await.is_err() {
            tokio::task::yield_now().await;
        }
        Client::at(self.address, self.address).await
    }
}

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    async fn at(own: IpAddr, server: IpAddr) -> Self {
        let socket = UdpSocket::bind((own, 0)).await.unwrap();
        Self { socket, server: (server, GATEWAY_DNS_PORT).into() }
    }

    /// Asks until there is an answer: a server that has just changed its address may not listen yet.
    async fn ask_udp(&self, id: u16) -> Response {
        let ask = async {
            loop {
                self.socket.send_to(&query(id), self.server).await.unwrap();
                let answer = tokio::time::timeout(Duration::from_millis(200), self.receive()).await;
                if let Ok(answer) = answer.map(|answer| answer.0)
                    && answer.metadata.id == id
                {
                    return Response(answer);
                }
            }
        };
        tokio::time::timeout(DEADLINE, ask).await.expect("no answer")
    }

    async fn receive(&self) -> Response {
        let mut buffer = [0; 4096];
        let (len, from) = self.socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from, self.server);
        Response(Message::from_vec(&buffer[..len]).unwrap())
    }

    async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let own = self.socket.local_addr().unwrap();
        socket.bind((own.ip(), 0).into()).unwrap();
        socket.connect(self.server).await.unwrap()
    }
}

struct Response(Message);

impl Response {
    fn texts(&self) -> Vec<String> {
        let text = |record: &Record| match &record.data {
            RData::TXT(txt) => {
                txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()
            }
            other => panic!("not a text: {other:?}"),
        };
        self.0.answers.iter().map(text).collect()
    }

    fn code(&self) -> ResponseCode {
        self.0.metadata.response_code
    }
}

fn query(id: u16) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.op_code = OpCode::Query;
    let name = Name::from_ascii(format!("q{id}.office.example.")).unwrap();
    message.add_query(Query::query(name, RecordType::TXT));
    message.to_vec().unwrap()
}

fn framed(id: u16) -> Vec<u8> {
    frame(&query(id)).unwrap()
}

fn deframed(mut bytes: &[u8]) -> Vec<Response> {
    let mut deframer = Deframer::new(usize::from(u16::MAX));
    let mut next = || deframer.next_message(&mut bytes).unwrap();
    std::iter::from_fn(|| next().map(|m| Response(Message::from_vec(&m).unwrap()))).collect()
}

/// A resolver that answers every question with one text.
struct Resolver {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Resolver {
    async fn start(text: &str) -> Self {
        let udp = UdpSocket::bind(HERE).await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (text, count) = (text.to_owned(), asked.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                tokio::select! {
                    received = udp.recv_from(&mut buffer) => {
                        let (len, from) = received.unwrap();
                        count.fetch_add(1, Ordering::Relaxed);
                        udp.send_to(&answer(&buffer[..len], &text), from).await.unwrap();
                    }
                    accepted = tcp.accept() => {
                        let (mut stream, _) = accepted.unwrap();
                        let len = stream.read(&mut buffer).await.unwrap();
                        let answer = frame(&answer(&buffer[2..len], &text)).unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            }
        });
        Self { address, asked }
    }
}

fn answer(query: &[u8], text: &str) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let name = query.queries[0].name().clone();
    let mut response = query.into_response();
    let parts = text.as_bytes().chunks(200).map(|part| String::from_utf8_lossy(part).into_owned());
    response.add_answer(Record::from_rdata(name, 60, RData::TXT(TXT::new(parts.collect()))));
    response.to_vec().unwrap()
}
