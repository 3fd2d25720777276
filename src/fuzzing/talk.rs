//! What the two sides of a conversation say.

use jiff::Timestamp;

use super::assert_shown;
use contract::wire::Answer;
use contract::wire::conversation::{
    Cancel, Collector, End, EndedEpochs, Header, JobProgress, JobState, Kind, MAX_JSON_BYTES,
    ModelPart, Protocol, message_id, model_messages, sha256,
};

/// A body: read as everything that it may be, and where it is that, written and read again.
pub(super) fn conversation(data: &[u8]) {
    let _ = Protocol::of(data);
    control(data);
    if let Ok(state) = JobState::parse(data) {
        assert_shown(&state.detail);
        let message = state.message("c");
        assert!(message.body.len() <= MAX_JSON_BYTES);
        let back = JobState::parse(&message.body).unwrap();
        assert_shown(&back.detail);
        assert_eq!(message.message_id, message_id("c", Kind::State, &[&message.body]));
    }
    if let Ok(progress) = JobProgress::parse(data) {
        assert!(progress.ended_epochs.iter().count() <= EndedEpochs::MOST);
        progress.ended_epochs.iter().for_each(|epoch| assert_shown(&epoch.layer));
        let message = progress.message("c");
        assert!(message.body.len() <= MAX_JSON_BYTES);
        assert_eq!(JobProgress::parse(&message.body).unwrap(), progress);
        assert!((0.0..=1.0).contains(&progress.standing.fraction()));
    }
    #[cfg(feature = "gateway")]
    gateway::fuzzing::told(data);
    if let Ok(end) = End::from_spool(data) {
        let back = End::from_spool(&end.body()).unwrap();
        assert_eq!(back.kind(), end.kind());
        assert_eq!(back.message("c").message_id, end.message("c").message_id);
        assert_eq!(back.error_sentence(), end.error_sentence());
        if let Some(sentence) = end.error_sentence() {
            assert_shown(sentence);
        }
    }
    if let Ok(answer) = Answer::from_body(data.to_vec()) {
        assert_eq!(
            Answer::from_body(answer.body()).unwrap().error_sentence(),
            answer.error_sentence()
        );
    }
    parts(data);
}

fn control(data: &[u8]) {
    match Cancel::parse(data) {
        Ok(cancel) => {
            assert!(cancel.is_about(&cancel.correlation_id, &cancel.reply_to));
            let body = serde_json::to_vec(&cancel).unwrap();
            // What was short may be longer with its escapes; it is refused then, and not misread.
            assert!(Cancel::parse(&body).is_ok_and(|back| back == cancel) || body.len() > 4096);
        }
        Err(error) => assert_shown(&error.to_string()),
    }
}

/// The bytes as headers of a part and its body, and as a model in parts that come in a strange
/// order.
fn parts(data: &[u8]) {
    let byte = |at: usize| data.get(at).copied().unwrap_or_default();
    let body = data.get(8..).unwrap_or_default();
    let header = |name: &str| {
        Some(match name {
            "name" => Header::Text(String::from_utf8_lossy(data.get(..4)?).into_owned()),
            "sha256" if byte(4) < 200 => Header::Text(sha256(body)),
            "sha256" => Header::Text(String::from_utf8_lossy(body).into_owned()),
            "size" => Header::Number(i64::try_from(body.len()).ok()? + i64::from(byte(5) & 1)),
            "part" => Header::Number(i64::from(byte(6).cast_signed())),
            "parts" => Header::Number(i64::from(byte(7).cast_signed())),
            _ => return None,
        })
    };
    match ModelPart::read(header) {
        Ok(part) => {
            assert!((1..=part.parts).contains(&part.part));
            if let Ok(Some(model)) = Collector::default().take(&part, body) {
                assert_eq!(
                    (sha256(&model.file), model.file.len() as u64),
                    (part.sha256, part.size)
                );
            }
        }
        Err(error) => assert_shown(&error.to_string()),
    }
    let most = usize::from(byte(0) % 64) + 1;
    let messages = model_messages("c", "Model 0", Timestamp::UNIX_EPOCH, body, Some(most));
    let mut collector = Collector::default();
    let mut whole = None;
    let order = data.iter().map(|byte| usize::from(*byte) % messages.len()).take(64);
    for message in order.chain(0..messages.len()).filter_map(|at| messages.get(at)) {
        let part = ModelPart::read(|name| {
            message.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        });
        // A model of more parts than any has is refused as a whole.
        let Ok(part) = part else { return };
        whole = collector.take(&part, &message.body).unwrap().or(whole);
    }
    assert_eq!(whole.map(|model| model.file).as_deref(), Some(body));
}
