//! One TCP or TLS connection: messages in, messages out.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use connlib_relay::server::message_len;
use rustls::{ServerConfig, ServerConnection};

/// Bytes that wait for a slow client at most. What comes then is lost, as on a full queue of a router.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Whether a connection is encrypted.
#[derive(Debug)]
pub(crate) enum Secrecy {
    Plain,
    Tls(Arc<ServerConfig>),
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    /// The beginning of a message.
    partial: Vec<u8>,
    /// Whole messages; the first `sent` bytes are with the kernel or with TLS.
    output: Vec<u8>,
    sent: usize,
    /// Bytes that TLS has not taken of the message that `sent` is in.
    left: usize,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, secrecy: Secrecy) -> Result<Self, rustls::Error> {
        let tls = match secrecy {
            Secrecy::Plain => None,
            Secrecy::Tls(config) => Some(Box::new(ServerConnection::new(config)?)),
        };
        Ok(Self { stream, tls, partial: Vec::new(), output: Vec::new(), sent: 0, left: 0 })
    }

    /// Reads to the front of `buffer`, once from the socket: the beginning of a message that was [kept](Self::keep), and
    /// what has come since. Says how many bytes there are, and whether any are new.
    ///
    /// # Errors
    /// `WouldBlock`: nothing new is there. Otherwise the connection is over, `UnexpectedEof` being its orderly end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (kept, rest) = buffer.split_at_mut(self.partial.len());
        let length = match &mut self.tls {
            None => self.stream.read(rest)?,
            Some(tls) => read_tls(tls, &mut self.stream, rest)?,
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        kept.copy_from_slice(&self.partial);
        self.partial.clear();
        Ok(kept.len() + length)
    }

    /// Keeps the beginning of a message for the next [`read`](Self::read).
    pub(crate) fn keep(&mut self, partial: &[u8]) {
        self.partial.extend_from_slice(partial);
    }

    /// How many bytes of [pushed](Self::push) messages wait.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Appends a message of these parts. Says whether there was room for it.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.unsent() + length > OUTPUT_LIMIT {
            return false;
        }
        if self.sent > OUTPUT_LIMIT {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        parts.iter().for_each(|part| self.output.extend_from_slice(part));
        true
    }

    /// Sends what waits, as far as the kernel takes it. Says whether all is sent.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let is_done = match self.write() {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        Ok(is_done)
    }

    fn write(&mut self) -> io::Result<()> {
        loop {
            self.encrypt()?;
            let waiting = &self.output[self.sent..];
            let length = match &mut self.tls {
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.stream)?,
                // The handshake goes on with what the client says.
                Some(_) => return Ok(()),
                None if waiting.is_empty() => return Ok(()),
                None => self.stream.write(waiting)?,
            };
            if length == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if self.tls.is_none() {
                self.sent += length;
            }
        }
    }

    /// Hands to TLS what it takes. Each message gets a record of its own: there are clients, coturn's for one, that take
    /// what they read at once for one message.
    fn encrypt(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_handshaking()) else {
            return Ok(());
        };
        while self.sent < self.output.len() {
            let waiting = &self.output[self.sent..];
            if self.left == 0 {
                // INVARIANT: these are whole messages.
                self.left = message_len(waiting).ok().flatten().unwrap_or(waiting.len());
            }
            let message = &waiting[..self.left.min(waiting.len())];
            let length = tls.writer().write(message)?;
            if length == 0 {
                // Enough waits for the socket.
                return Ok(());
            }
            self.sent += length;
            self.left = message.len() - length;
        }
        Ok(())
    }

    /// Gives memory back that an idle connection doesn't need.
    pub(crate) fn shrink(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }

    /// Says goodbye, as far as that is possible without waiting.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        // Whether it arrives is of no consequence.
        let _ = self.flush();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Decrypts what the socket has to give. All that was decrypted is read before the socket is asked again.
fn read_tls(
    tls: &mut ServerConnection,
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    match tls.reader().read(buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        result => return result,
    }
    if tls.read_tls(stream)? == 0 {
        return Ok(0);
    }
    if let Err(error) = tls.process_new_packets() {
        // The alert that says why.
        let _ = tls.write_tls(stream);
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    match tls.reader().read(buffer) {
        // Handshake messages: come again, the socket may have more.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::ErrorKind::Interrupted.into())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (Connection::new(stream, Secrecy::Plain).unwrap(), client)
    }

    #[test]
    fn the_beginning_of_a_message_waits_for_its_end() {
        let (mut connection, mut client) = pair();
        let mut buffer = [0; 64];
        client.write_all(b"onetw").unwrap();
        let length = loop {
            match connection.read(&mut buffer) {
                Ok(length) => break length,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(&buffer[..length], b"onetw");
        connection.keep(&buffer[3..length]);
        // Nothing new: what is kept stays.
        assert_eq!(connection.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"o").unwrap();
        drop(client);
        let length = loop {
            match connection.read(&mut buffer) {
                Ok(length) => break length,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(&buffer[..length], b"two");
        let end = connection.read(&mut buffer).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_client_that_reads_slowly_gets_whole_messages_in_order_and_costs_little() {
        const LENGTH: usize = 1024;
        let (mut connection, mut client) = pair();
        let mut taken = Vec::new();
        let mut offer = |connection: &mut Connection, numbers: std::ops::Range<u32>| {
            for number in numbers {
                if connection.push(&[&number.to_be_bytes(), &[0; LENGTH - 4]]) {
                    taken.push(number);
                }
                connection.flush().unwrap();
                assert!(connection.unsent() <= OUTPUT_LIMIT);
                assert!(connection.output.capacity() <= 4 * OUTPUT_LIMIT);
            }
        };
        // More than the kernel's buffers hold; then the client reads some, and gets more.
        offer(&mut connection, 0..20_000);
        let mut received = vec![0; 1000 * LENGTH];
        client.read_exact(&mut received).unwrap();
        offer(&mut connection, 20_000..40_000);
        assert!(taken.len() < 30_000, "most of it was lost");

        client.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 1 << 16];
        while received.len() < taken.len() * LENGTH {
            connection.flush().unwrap();
            match client.read(&mut buffer) {
                Ok(length) => received.extend_from_slice(&buffer[..length]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let numbers = received
            .chunks(LENGTH)
            .map(|message| u32::from_be_bytes(*message.first_chunk().unwrap()));
        assert!(numbers.eq(taken));
    }
}
