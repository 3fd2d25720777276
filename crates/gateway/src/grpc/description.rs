//! What reflection says of the service, so that clients need no files: the same as `messages.rs`
//! has, which a test compares.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, MethodDescriptorProto,
    ServiceDescriptorProto,
};

/// The service's name.
pub(super) const SERVICE: &str = "training.TrainingService";

/// A field: its name, its number, and what it is.
struct Field(&'static str, i32, Kind);

/// What a field is.
enum Kind {
    Text,
    Number,
    Message(&'static str),
    Choice(&'static str),
    Map(&'static str),
}

/// The messages, with their fields.
const MESSAGES: &[(&str, &[Field])] = &[
    (
        "TrainingJobMetadata",
        &[
            Field("algorithm", 1, Kind::Text),
            Field("dataset_id", 2, Kind::Text),
            Field("name", 3, Kind::Text),
            Field("train_data_version_hash", 4, Kind::Text),
            Field("parameters", 5, Kind::Map(".training.TrainingJobMetadata.ParametersEntry")),
            Field("output_model_name", 6, Kind::Text),
        ],
    ),
    ("TrainRequest", &[Field("metadata", 1, Kind::Message(".training.TrainingJobMetadata"))]),
    ("TrainResponse", &[Field("job_id", 1, Kind::Number)]),
    ("GetTrainingStatusRequest", &[Field("job_id", 1, Kind::Number)]),
    (
        "GetTrainingStatusResponse",
        &[
            Field("status", 1, Kind::Choice(".training.TrainingStatus")),
            Field("job_id", 2, Kind::Number),
            Field("message", 3, Kind::Text),
            Field("metadata", 4, Kind::Message(".training.TrainingJobMetadata")),
            Field("positionInQueue", 5, Kind::Number),
        ],
    ),
];

/// The states, by their numbers.
const STATES: [&str; 5] = ["queuing", "launch", "running", "succeed", "failure"];

/// The methods: name, what is asked, what is answered.
const METHODS: [(&str, &str, &str); 2] = [
    ("Train", "TrainRequest", "TrainResponse"),
    ("GetTrainingStatus", "GetTrainingStatusRequest", "GetTrainingStatusResponse"),
];

/// All of it.
pub(super) fn files() -> FileDescriptorSet {
    let method = |(name, input, output): (&str, &str, &str)| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(format!(".training.{input}")),
        output_type: Some(format!(".training.{output}")),
        ..MethodDescriptorProto::default()
    };
    let state = |(number, name): (i32, &str)| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        ..EnumValueDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("training.proto".to_owned()),
        package: Some("training".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: MESSAGES.iter().map(|(name, fields)| message(name, fields)).collect(),
        enum_type: vec![EnumDescriptorProto {
            name: Some("TrainingStatus".to_owned()),
            value: (0..).zip(STATES).map(state).collect(),
            ..EnumDescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: SERVICE.rsplit('.').next().map(str::to_owned),
            method: METHODS.into_iter().map(method).collect(),
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }
}

fn message(name: &str, fields: &[Field]) -> DescriptorProto {
    let is_map = |field: &&Field| matches!(field.2, Kind::Map(_));
    let entry = |_: &Field| DescriptorProto {
        name: Some("ParametersEntry".to_owned()),
        field: [Field("key", 1, Kind::Text), Field("value", 2, Kind::Text)]
            .iter()
            .map(field)
            .collect(),
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    };
    DescriptorProto {
        name: Some(name.to_owned()),
        field: fields.iter().map(field).collect(),
        nested_type: fields.iter().filter(is_map).map(entry).collect(),
        ..DescriptorProto::default()
    }
}

fn field(Field(name, number, kind): &Field) -> FieldDescriptorProto {
    let (label, kind, of) = match kind {
        Kind::Text => (Label::Optional, Type::String, None),
        Kind::Number => (Label::Optional, Type::Int32, None),
        Kind::Message(of) => (Label::Optional, Type::Message, Some(of)),
        Kind::Choice(of) => (Label::Optional, Type::Enum, Some(of)),
        Kind::Map(of) => (Label::Repeated, Type::Message, Some(of)),
    };
    FieldDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(*number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: of.map(|of| (*of).to_owned()),
        ..FieldDescriptorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;
    use crate::grpc::messages::{
        Metadata, Status, StatusRequest, StatusResponse, TrainRequest, TrainResponse,
    };

    /// The numbers of the fields that a message is written with.
    fn numbers(message: &impl Message) -> Vec<i32> {
        let bytes = message.encode_to_vec();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (number, kind) = prost::encoding::decode_key(&mut rest).unwrap();
            let context = prost::encoding::DecodeContext::default();
            prost::encoding::skip_field(kind, number, &mut rest, context).unwrap();
            found.push(number as i32);
        }
        found
    }

    #[test]
    fn clients_are_told_the_numbers_that_are_used() {
        let metadata = Metadata {
            algorithm: "a".into(),
            dataset_id: "b".into(),
            name: "c".into(),
            train_data_version_hash: "d".into(),
            parameters: BTreeMap::from([("e".into(), "f".into())]),
            output_model_name: "g".into(),
        };
        let of = |name: &str| -> Vec<i32> {
            let (_, fields) = MESSAGES.iter().find(|(message, _)| *message == name).unwrap();
            fields.iter().map(|Field(_, number, _)| *number).collect()
        };
        assert_eq!(numbers(&metadata), of("TrainingJobMetadata"));
        let some = Some(metadata);
        assert_eq!(numbers(&TrainRequest { metadata: some.clone() }), of("TrainRequest"));
        assert_eq!(numbers(&TrainResponse { job_id: 1 }), of("TrainResponse"));
        assert_eq!(numbers(&StatusRequest { job_id: 1 }), of("GetTrainingStatusRequest"));
        let status = StatusResponse {
            status: Status::Failure.into(),
            job_id: 1,
            message: "h".into(),
            metadata: some,
            position_in_queue: 1,
        };
        assert_eq!(numbers(&status), of("GetTrainingStatusResponse"));
        for (number, name) in (0..).zip(STATES) {
            let named = Status::try_from(number).map(|state| format!("{state:?}").to_lowercase());
            assert_eq!(named.as_deref(), Ok(name));
        }
    }
}
