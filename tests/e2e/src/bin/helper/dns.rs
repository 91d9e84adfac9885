//! An authoritative name server for a handful of records, over UDP and TCP (RFC 1035).

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    str::FromStr,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

/// Answer DNS queries from records given on the command line.
///
/// A name that has no record at all does not exist; a record for `*.example.com` answers for all names
/// below that have none of their own.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen, UDP and TCP; may be given several times
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// A record as `NAME TYPE DATA`, with A, AAAA, CNAME, PTR, SRV (priority weight port target) or TXT
    #[arg(long = "record")]
    records: Vec<String>,
}

const TTL: u32 = 60;
/// What fits into a datagram without EDNS (RFC 1035 §4.2.1).
const LARGEST_DATAGRAM: usize = 512;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut zone = Zone::default();
    for record in &arguments.records {
        zone.add(record).with_context(|| format!("cannot understand the record {record:?}"))?;
    }
    let zone = Arc::new(zone);
    for &address in &arguments.listen {
        let context = || format!("cannot listen on {address}");
        let socket = UdpSocket::bind(address).with_context(context)?;
        let listener = TcpListener::bind(address).with_context(context)?;
        let (for_udp, for_tcp) = (Arc::clone(&zone), Arc::clone(&zone));
        thread::spawn(move || serve_udp(&socket, &for_udp));
        thread::spawn(move || serve_tcp(&listener, &for_tcp));
    }
    crate::log("INFO", "listening");
    loop {
        thread::park();
    }
}

fn serve_udp(socket: &UdpSocket, zone: &Zone) {
    let mut buffer = [0; 4096];
    loop {
        // An error is an ICMP message about a client that has gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let Some(mut response) = zone.answer(&buffer[..length]) else { continue };
        let limit = response.edns.as_ref().map_or(LARGEST_DATAGRAM, |e| e.max_payload().into());
        let Ok(mut bytes) = response.to_vec() else { continue };
        if bytes.len() > limit {
            response.answers.clear();
            response.metadata.truncation = true;
            bytes = response.to_vec().unwrap_or_default();
        }
        drop(socket.send_to(&bytes, client));
    }
}

fn serve_tcp(listener: &TcpListener, zone: &Arc<Zone>) {
    for stream in listener.incoming().flatten() {
        let zone = Arc::clone(zone);
        thread::spawn(move || drop(serve_stream(stream, &zone)));
    }
}

/// Answers queries, each after its length in two bytes (RFC 1035 §4.2.2).
fn serve_stream(mut stream: TcpStream, zone: &Zone) -> Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        let response = zone.answer(&query).context("no query")?.to_vec()?;
        let length = u16::try_from(response.len())?;
        stream.write_all(&[&length.to_be_bytes()[..], &response].concat())?;
    }
}

#[derive(Debug, Default)]
struct Zone {
    records: BTreeMap<Name, Vec<RData>>,
}

impl Zone {
    fn add(&mut self, text: &str) -> Result<()> {
        let mut words = text.split_whitespace();
        let name = absolute(words.next().context("the name is missing")?)?;
        let kind = RecordType::from_str(words.next().context("the type is missing")?)?;
        let data: Vec<&str> = words.collect();
        self.records.entry(name).or_default().push(parse(kind, &data)?);
        Ok(())
    }

    fn answer(&self, query: &[u8]) -> Option<Message> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        // To a client we are a resolver like any other.
        response.metadata.recursion_available = true;
        response.edns = query.edns.clone();
        let [question] = &query.queries[..] else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Some(response);
        };
        response.add_query(question.clone());
        if query.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Some(response);
        }

        let mut name = question.name().clone();
        // A chain of aliases longer than this is a mistake in the records.
        for _ in 0..8 {
            let Some(records) = self.find(&name) else {
                response.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let mut alias = None;
            for data in records {
                if let RData::CNAME(target) = data {
                    alias = Some(target.0.clone());
                } else if data.record_type() != question.query_type() {
                    continue;
                }
                response.add_answer(Record::from_rdata(name.clone(), TTL, data.clone()));
            }
            match alias {
                Some(target) if question.query_type() != RecordType::CNAME => name = target,
                _ => break,
            }
        }
        Some(response)
    }

    /// The records of a name, or of the closest wildcard above it.
    fn find(&self, name: &Name) -> Option<&Vec<RData>> {
        let name = name.to_lowercase();
        let mut above = name.clone();
        self.records.get(&name).or_else(|| {
            while !above.is_root() {
                above = above.base_name();
                let wildcard = above.prepend_label("*").ok()?;
                if let Some(records) = self.records.get(&wildcard) {
                    return Some(records);
                }
            }
            None
        })
    }
}

fn parse(kind: RecordType, data: &[&str]) -> Result<RData> {
    use hickory_proto::rr::rdata::{CNAME, PTR, SRV, TXT};

    let one = || data.first().copied().context("the data is missing");
    Ok(match kind {
        RecordType::A => RData::A(one()?.parse()?),
        RecordType::AAAA => RData::AAAA(one()?.parse()?),
        RecordType::CNAME => RData::CNAME(CNAME(absolute(one()?)?)),
        RecordType::PTR => RData::PTR(PTR(absolute(one()?)?)),
        RecordType::TXT => RData::TXT(TXT::new(vec![data.join(" ")])),
        RecordType::SRV => {
            ensure!(data.len() == 4, "SRV wants priority, weight, port and target");
            let target = absolute(data[3])?;
            RData::SRV(SRV::new(data[0].parse()?, data[1].parse()?, data[2].parse()?, target))
        }
        other => anyhow::bail!("{other} records are not served"),
    })
}

/// A name with its final dot, in lower case.
fn absolute(text: &str) -> Result<Name> {
    let mut name = Name::from_utf8(text)?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}
