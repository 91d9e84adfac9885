//! A web server with just enough of HTTP/1.1 for `curl` (RFC 9112).

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use connlib_e2e::payload::{Hash, Payload};

/// Serve a page at `/`, N made-up bytes at `/bytes/N`, and take uploads by PUT, which are answered with
/// their SHA-256.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen; may be given several times
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// The text of the page
    #[arg(long)]
    page: String,
}

/// More than any client of ours sends.
const LARGEST_HEAD: u64 = 16 << 10;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut listeners = Vec::new();
    for address in &arguments.listen {
        let listener = TcpListener::bind(address);
        listeners.push(listener.with_context(|| format!("cannot listen on {address}"))?);
    }
    crate::log("INFO", "listening");
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                for stream in listener.incoming().flatten() {
                    let page = arguments.page.clone();
                    thread::spawn(move || {
                        // A client may hang up whenever it likes.
                        drop(serve(&stream, &page));
                    });
                }
            });
        }
    });
    Ok(())
}

/// Answers requests until the client goes.
fn serve(stream: &TcpStream, page: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let mut writer = BufWriter::with_capacity(1 << 18, stream);
    while let Some(request) = Request::read(&mut reader)? {
        if request.expects_continue {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            writer.flush()?;
        }
        let bytes = request.path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
        match (request.method.as_str(), request.path.as_str(), bytes) {
            ("PUT", _, _) => {
                let sum = hash_of(&mut reader.by_ref().take(request.length), request.length)?;
                answer(&mut writer, "200 OK", (sum + "\n").as_bytes())?;
            }
            ("GET", "/", _) => answer(&mut writer, "200 OK", format!("{page}\n").as_bytes())?,
            ("GET", _, Some(count)) => {
                head(&mut writer, "200 OK", count)?;
                io::copy(&mut Payload::new(count), &mut writer)?;
            }
            _ => answer(&mut writer, "404 Not Found", b"nothing here\n")?,
        }
        writer.flush()?;
    }
    Ok(())
}

fn hash_of(body: &mut impl Read, expected: u64) -> Result<String> {
    let mut hash = Hash::default();
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    while let count @ 1.. = body.read(&mut buffer)? {
        hash.update(&buffer[..count]);
        total += count as u64;
    }
    ensure!(total == expected, "the upload ended early");
    Ok(hash.finish())
}

fn answer(writer: &mut impl Write, status: &str, body: &[u8]) -> io::Result<()> {
    head(writer, status, body.len() as u64)?;
    writer.write_all(body)
}

fn head(writer: &mut impl Write, status: &str, length: u64) -> io::Result<()> {
    write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
}

struct Request {
    method: String,
    path: String,
    length: u64,
    expects_continue: bool,
}

impl Request {
    /// The next request, without its body; nothing if the client has hung up.
    fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut reader = reader.take(LARGEST_HEAD);
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            if bytes.ends_with(b"\r\n\r\n") {
                return Self::parse(&bytes).map(Some);
            }
        }
        ensure!(bytes.is_empty(), "the request's head is too large or incomplete");
        Ok(None)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(bytes)?.is_partial() {
            bail!("the request's head is incomplete");
        }
        let header = |name: &str| {
            let found =
                request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        ensure!(header("transfer-encoding").is_none(), "only uploads of a known length are taken");
        Ok(Self {
            length: header("content-length").map_or(Ok(0), |length| length.parse())?,
            expects_continue: header("expect").is_some(),
            method: request.method.unwrap_or_default().to_owned(),
            path: request.path.unwrap_or_default().to_owned(),
        })
    }
}
