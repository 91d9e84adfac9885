//! Walking over the bytes of a message.
//!
//! Messages of others pass through us byte for byte, so that record types, options and spellings
//! that we don't know arrive as they were sent. This is why they are not decoded into the types of
//! `hickory-proto` and encoded again: it refuses, for one, records without data.

use std::ops::Range;

/// Length of the fixed header (RFC 1035 §4.1.1).
pub(crate) const HEADER_LEN: usize = 12;
/// The most that the two-byte length of DNS over TCP can say.
pub(crate) const MAX_MESSAGE_LEN: usize = u16::MAX as usize;

/// Where the record counts stand in the header.
pub(crate) const ANSWER_COUNT: usize = 6;
pub(crate) const AUTHORITY_COUNT: usize = 8;
pub(crate) const ADDITIONAL_COUNT: usize = 10;

/// Bits of the third byte: response, kind of query, truncated, recursion desired.
pub(crate) const QR: u8 = 0x80;
pub(crate) const OPCODE: u8 = 0x78;
pub(crate) const TC: u8 = 0x02;
pub(crate) const RD: u8 = 0x01;
/// Bits of the fourth byte: recursion available, authentic data, checking disabled, result.
pub(crate) const RA: u8 = 0x80;
pub(crate) const AD: u8 = 0x20;
pub(crate) const CD: u8 = 0x10;
pub(crate) const RCODE: u8 = 0x0f;

pub(crate) const TYPE_OPT: u16 = 41;
pub(crate) const CLASS_IN: u16 = 1;
/// The only flag that OPT has (RFC 3225 §3); an answer repeats it.
pub(crate) const DNSSEC_OK: u32 = 0x8000;

/// Why some bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not even a header.
    #[error("the message ends within the header")]
    TooShort,
    /// More than we are ready to hold.
    #[error("the message has {0} bytes, which is too long")]
    TooLong(usize),
    /// A response where a query was expected.
    #[error("the message is a response, not a query")]
    NotAQuery,
    /// A query where a response was expected.
    #[error("the message is a query, not a response")]
    NotAResponse,
    /// None or several questions.
    #[error("the message has {0} questions instead of one")]
    QuestionCount(u16),
    /// The question is cut off, compressed or too long.
    #[error("the question is malformed")]
    BadQuestion,
    /// A record is cut off, or its name is malformed.
    #[error("a record is malformed")]
    BadRecord,
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Writes a number at a place that is known to be within the message.
pub(crate) fn put_u16(message: &mut [u8], at: usize, value: u16) {
    message[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The labels of an uncompressed name, without the root label. Ends early where there are none.
#[derive(Clone)]
pub(crate) struct Labels<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&len, rest) = self.0.split_first()?;
        if len == 0 || len > 63 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(len.into())?;
        self.0 = rest;
        Some(label)
    }
}

/// The question section of a message that has exactly one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// Where the question ends and the records begin.
    pub(crate) end: usize,
}

impl Question {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let count = u16_at(message, 4).ok_or(MessageError::TooShort)?;
        let name = message.get(HEADER_LEN..).ok_or(MessageError::TooShort)?;
        if count != 1 {
            return Err(MessageError::QuestionCount(count));
        }
        let mut labels = Labels(name);
        labels.by_ref().for_each(drop);
        // Nothing precedes the question that a compression pointer could lead to, so the walk ends
        // at the root label or the question is malformed.
        let name_len = name.len() - labels.0.len() + 1;
        if labels.0.first() != Some(&0) || name_len > 255 {
            return Err(MessageError::BadQuestion);
        }
        let rest = HEADER_LEN + name_len;
        let rtype = u16_at(message, rest).ok_or(MessageError::BadQuestion)?;
        let class = u16_at(message, rest + 2).ok_or(MessageError::BadQuestion)?;
        Ok(Self { rtype, class, end: rest + 4 })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) section: Section,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) ttl_at: usize,
    pub(crate) data: Range<usize>,
}

/// The records of a message. Each step consumes at least eleven bytes, whatever the counts say.
pub(crate) struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl<'a> Records<'a> {
    /// `question` must be that of the message.
    pub(crate) fn new(message: &'a [u8], question: Question) -> Self {
        let left = [ANSWER_COUNT, AUTHORITY_COUNT, ADDITIONAL_COUNT]
            .map(|at| u16_at(message, at).unwrap_or(0));
        Self { message, at: question.end, left }
    }

    fn read(&mut self, section: Section) -> Option<Record> {
        let at = skip_name(self.message, self.at)?;
        let data_start = at + 10;
        let data_len = u16_at(self.message, at + 8)?;
        let data = data_start..data_start + usize::from(data_len);
        self.message.get(data.clone())?;
        self.at = data.end;
        Some(Record {
            section,
            rtype: u16_at(self.message, at)?,
            class: u16_at(self.message, at + 2)?,
            ttl: u32_at(self.message, at + 4)?,
            ttl_at: at + 4,
            data,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let index = self.left.iter().position(|left| *left > 0)?;
        self.left[index] -= 1;
        let record = self.read(sections[index]).ok_or(MessageError::BadRecord);
        if record.is_err() {
            self.left = [0; 3];
        }
        Some(record)
    }
}

/// Where the name that starts at `at` ends. A pointer ends it; it is not followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0.. => return Some(at + 2),
            64..0xc0 => return None,
        }
    }
}

/// Appends an OPT record (RFC 6891 §6.1.2) without options, and counts it as the only additional
/// record.
pub(crate) fn push_opt(message: &mut Vec<u8>, payload: u16, dnssec_ok: bool) {
    message.push(0);
    message.extend(TYPE_OPT.to_be_bytes());
    message.extend(payload.to_be_bytes());
    message.extend(if dnssec_ok { DNSSEC_OK } else { 0 }.to_be_bytes());
    message.extend([0, 0]);
    put_u16(message, ADDITIONAL_COUNT, 1);
}
