//! Responses of servers: do they answer the query, do they fit, how long are they good.

use hickory_proto::op::ResponseCode;

use crate::query::{MAX_UDP_LEN, Query};
use crate::wire::{
    ANSWER_COUNT, DNSSEC_OK, HEADER_LEN, MAX_MESSAGE_LEN, MessageError, QR, Question, RCODE,
    Records, TC, TYPE_OPT, push_opt, put_u16, u16_at,
};

/// Why a message is not the response to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is no readable response at all.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It carries another id.
    #[error("the response has another id than the query")]
    WrongId,
    /// It answers another question.
    #[error("the response answers another question")]
    WrongQuestion,
}

/// Checks that `message` is a server's response to `query`, which was sent under `sent_id`, and
/// makes it the answer for the app: with the app's id and the app's spelling of the name.
pub(crate) fn accept(
    message: &[u8],
    sent_id: u16,
    query: &Query,
) -> Result<Vec<u8>, ResponseError> {
    if message.len() > MAX_MESSAGE_LEN {
        return Err(MessageError::TooLong(message.len()).into());
    }
    let (Some(id), Some(flags)) = (u16_at(message, 0), message.get(2..HEADER_LEN)) else {
        return Err(MessageError::TooShort.into());
    };
    if flags[0] & QR == 0 {
        return Err(MessageError::NotAResponse.into());
    }
    if id != sent_id {
        return Err(ResponseError::WrongId);
    }
    let question = match Question::parse(message) {
        // Servers that understood nothing, EDNS for one, don't repeat the question.
        Err(MessageError::QuestionCount(0)) if flags[1] & RCODE != 0 => {
            return Ok(query.answer_empty(ResponseCode::from_low(flags[1] & RCODE)));
        }
        question => question?,
    };
    // Types and classes that differ in what is a letter's case differ in more than that: those
    // two fields are compared as they are.
    let (asked, answered) = (query.question(), &message[HEADER_LEN..question.end]);
    let (asked_name, asked_type) = asked.split_at(asked.len() - 4);
    let (answered_name, answered_type) = answered.split_at(answered.len() - 4);
    if !asked_name.eq_ignore_ascii_case(answered_name) || asked_type != answered_type {
        return Err(ResponseError::WrongQuestion);
    }

    let mut answer = message.to_vec();
    put_u16(&mut answer, 0, query.id());
    answer[HEADER_LEN..question.end].copy_from_slice(asked);
    Ok(answer)
}

/// Cuts an answer that is longer than `limit` down to its question and sets TC, so that the app
/// asks again over TCP.
pub fn fit(answer: Vec<u8>, limit: usize) -> Vec<u8> {
    if answer.len() <= limit {
        return answer;
    }
    let Ok(question) = Question::parse(&answer) else { return answer };
    let opt = Records::new(&answer, question).flatten().find(|r| r.rtype == TYPE_OPT);

    let mut cut = answer[..question.end].to_vec();
    cut[2] |= TC;
    cut[ANSWER_COUNT..HEADER_LEN].fill(0);
    if let Some(opt) = opt {
        push_opt(&mut cut, MAX_UDP_LEN as u16, opt.ttl & DNSSEC_OK != 0);
    }
    cut
}

#[cfg(test)]
pub(crate) mod tests {
    use hickory_proto::op::{Edns, Message};
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;
    use crate::query::tests::{message, query};

    /// What a server says to such a query: one A record.
    pub(crate) fn response(id: u16, name: &str, ttl: u32) -> Message {
        let mut response = message(id, name, RecordType::A).into_response();
        let name = Name::from_ascii(name).unwrap();
        response.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1))));
        response
    }

    #[test]
    fn accepts_the_response_to_the_query_alone() {
        let query = query("Example.com.", RecordType::A);
        let good = response(77, "example.COM.", 60);
        let accepted = Message::from_vec(&accept(&good.to_vec().unwrap(), 77, &query).unwrap());
        let accepted = accepted.unwrap();
        assert_eq!(accepted.metadata.id, 0x1234);
        assert_eq!(accepted.queries[0].name.to_ascii(), "Example.com.", "spelled as asked");
        assert_eq!(accepted.answers.len(), 1);

        let mut other_type = good.clone();
        other_type.queries[0].query_type = RecordType::AAAA;
        let mut two_questions = good.clone();
        two_questions.add_query(good.queries[0].clone());
        for (bytes, error) in [
            (response(78, "example.com.", 60).to_vec().unwrap(), ResponseError::WrongId),
            (response(77, "example.org.", 60).to_vec().unwrap(), ResponseError::WrongQuestion),
            (response(77, "a.example.com.", 60).to_vec().unwrap(), ResponseError::WrongQuestion),
            (other_type.to_vec().unwrap(), ResponseError::WrongQuestion),
            (query.to_upstream(77, true), MessageError::NotAResponse.into()),
            (two_questions.to_vec().unwrap(), MessageError::QuestionCount(2).into()),
            (good.to_vec().unwrap()[..11].to_vec(), MessageError::TooShort.into()),
            (vec![0; MAX_MESSAGE_LEN + 1], MessageError::TooLong(MAX_MESSAGE_LEN + 1).into()),
        ] {
            assert_eq!(accept(&bytes, 77, &query), Err(error));
        }
    }

    #[test]
    fn an_error_without_question_is_an_answer_with_question() {
        let query = query("example.com.", RecordType::A);
        let bare = |flags: u8| [0, 77, 0x80, flags, 0, 0, 0, 0, 0, 0, 0, 0];
        let answer = Message::from_vec(&accept(&bare(1), 77, &query).unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!((answer.metadata.id, answer.queries.len()), (0x1234, 1));
        assert_eq!(
            accept(&bare(0), 77, &query),
            Err(MessageError::QuestionCount(0).into()),
            "a success without question says nothing"
        );
    }

    #[test]
    fn records_of_any_type_pass_unchanged() {
        let query = query("example.com.", RecordType::A);
        let mut bytes = response(77, "example.com.", 60).to_vec().unwrap();
        // A second record: of an unknown type and without data.
        bytes.extend([0xc0, 12, 0xff, 0x01, 0, 1, 0, 0, 0, 9, 0, 0]);
        put_u16(&mut bytes, ANSWER_COUNT, 2);
        let accepted = accept(&bytes, 77, &query).unwrap();
        assert_eq!(accepted[2..], bytes[2..]);
    }

    #[test]
    fn long_answers_are_cut_to_the_question() {
        let mut long = response(1, "example.com.", 60);
        let name = Name::from_ascii("example.com.").unwrap();
        for _ in 0..10 {
            let text = RData::TXT(TXT::new(vec!["x".repeat(120)]));
            long.add_answer(Record::from_rdata(name.clone(), 60, text));
        }
        long.set_edns(Edns::new());
        let long = long.to_vec().unwrap();
        assert!(long.len() > MAX_UDP_LEN);
        assert_eq!(fit(long.clone(), long.len()), long);

        let cut = Message::from_vec(&fit(long, MAX_UDP_LEN)).unwrap();
        assert!(cut.metadata.truncation);
        assert_eq!((cut.queries.len(), cut.answers.len()), (1, 0));
        assert!(cut.edns.is_some());
    }
}
