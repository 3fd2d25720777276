//! The gateway's gRPC: a job is queued, launched, run and succeeds, as clients of other training
//! services ask for it; and the service describes itself.
#![cfg(feature = "gateway")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use crate::support::gateway::{QUICK, Site, id_of, page};
use crate::support::{SECONDS, wait_for, write_script};

/// A client's own view of the messages.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    algorithm: String,
    #[prost(string, tag = "2")]
    dataset_id: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    train_data_version_hash: String,
    #[prost(btree_map = "string, string", tag = "5")]
    parameters: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    output_model_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Train {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

/// A request or an answer that is a job's number.
#[derive(Clone, PartialEq, Message)]
struct Job {
    #[prost(int32, tag = "1")]
    job_id: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(int32, tag = "2")]
    job_id: i32,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "5")]
    position_in_queue: i32,
}

/// What came of a call: gRPC's code with its words, or the bytes of the messages.
type Answer = Result<Vec<u8>, (i32, String)>;

/// One call, over HTTP/2 without TLS.
fn call(to: SocketAddr, path: &str, token: Option<&str>, message: &impl Message) -> Answer {
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut framed).unwrap();
    let mut request = http::Request::post(format!("http://{to}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let (answer, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from(framed), true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        assert_eq!(head.status, 200, "{path}: {head:?}");
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
        (bytes, trailers)
    };
    let (bytes, trailers) = runtime
        .block_on(async { tokio::time::timeout(SECONDS(30), asked).await })
        .expect("an answer in time");
    match trailers["grpc-status"].to_str().unwrap().parse().unwrap() {
        0 => Ok(bytes),
        code => {
            let words = trailers.get("grpc-message").map(|words| words.to_str().unwrap());
            Err((code, words.unwrap_or_default().replace("%20", " ").replace("%22", "\"")))
        }
    }
}

/// The one message of an answer.
fn one<M: Message + Default>(answer: Answer) -> M {
    let bytes = answer.unwrap();
    M::decode(&bytes[5..]).unwrap()
}

const SERVICE: &str = "/training.TrainingService";

#[test]
fn a_job_is_queued_launched_run_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    // Each training waits for a word.
    let go = folder.path().join("go");
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.05; done\n{QUICK}", go.display());
    write_script(&trainer, &waits);
    let site = Site::with_trainer(&trainer);
    let gateway = site.try_start(&[], &["--grpc-without-token"]).unwrap();
    id_of(&gateway.upload(&page()).unwrap().expect(201));
    let train = |change: &dyn Fn(&mut Metadata)| {
        let mut metadata = Metadata {
            algorithm: "page-layers".into(),
            dataset_id: "1".into(),
            name: "demo".into(),
            train_data_version_hash: "hash".into(),
            parameters: [("EPOCHS", "1"), ("LR", "4"), ("PARALLEL_INSTANCES", "auto")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            output_model_name: "models".into(),
        };
        change(&mut metadata);
        let request = Train { metadata: Some(metadata) };
        call(gateway.address, &format!("{SERVICE}/Train"), None, &request)
    };
    let look = |job_id: i32, token: Option<&str>| {
        call(gateway.address, &format!("{SERVICE}/GetTrainingStatus"), token, &Job { job_id })
    };
    assert_eq!(one::<Job>(train(&|_| {})).job_id, 1);
    assert_eq!(one::<Job>(train(&|_| {})).job_id, 2);
    let second: Status = one(look(2, None));
    assert_eq!((second.status, second.position_in_queue), (0, 1));
    assert!(second.message.contains("1 training before"), "{}", second.message);
    let kept = second.metadata.unwrap();
    assert_eq!((kept.dataset_id.as_str(), kept.parameters["LR"].as_str()), ("1", "4"));
    std::fs::write(&go, "").unwrap();
    let mut seen = Vec::new();
    wait_for("the second job", SECONDS(60), || {
        let status: Status = one(look(2, Some(&gateway.token)));
        if seen.last() != Some(&status.status) {
            seen.push(status.status);
        }
        (status.status == 3).then_some(())
    });
    assert!(seen.is_sorted(), "{seen:?}");

    let (invalid, not_found, unauthenticated) = (3, 5, 16);
    for (answer, code, words) in [
        (look(99, None), not_found, "Job 99 doesn't exist"),
        (look(1, Some("wrong")), unauthenticated, "unknown"),
        (train(&|m| m.output_model_name.clear()), invalid, "\"outputModelName\" is required."),
        (train(&|m| m.dataset_id = "7".into()), invalid, "no page 7"),
        (train(&|m| m.dataset_id = "x".into()), invalid, "no such page"),
        (
            train(&|m| drop(m.parameters.insert("EPOCHS".into(), "0".into()))),
            invalid,
            "Maximum number of training epochs",
        ),
        (
            train(&|m| drop(m.parameters.insert("PARALLEL_INSTANCES".into(), "65".into()))),
            invalid,
            "from 1 to 64, not \"65\"; or auto",
        ),
    ] {
        let (found, said) = answer.unwrap_err();
        assert!(found == code && said.contains(words), "{found} {said}, not {code} {words}");
    }
    gateway.terminate();

    // Without the option a token is needed, and what was asked for is still there.
    let gateway = site.start();
    let look = |token: Option<&str>| {
        let path = format!("{SERVICE}/GetTrainingStatus");
        call(gateway.address, &path, token, &Job { job_id: 2 })
    };
    assert_eq!(look(None).unwrap_err().0, unauthenticated);
    assert_eq!(one::<Status>(look(Some(&gateway.token))).status, 3);
    gateway.terminate();
}

#[test]
fn the_service_describes_itself_and_is_healthy() {
    /// A question to the reflection: all services, or the file of one.
    #[derive(Clone, PartialEq, Message)]
    struct Question {
        #[prost(string, optional, tag = "4")]
        file_of: Option<String>,
        #[prost(string, optional, tag = "7")]
        all: Option<String>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Health {
        #[prost(string, tag = "1")]
        service: String,
    }
    let site = Site::new();
    let gateway = site.start();
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let ask = |question: Question| {
            let bytes = call(gateway.address, &path, None, &question).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let all = ask(Question { all: Some(String::new()), file_of: None });
        for service in ["training.TrainingService", "grpc.health.v1.Health"] {
            assert!(all.contains(service), "{version}: {all:?}");
        }
        let file = Some("training.TrainingService".to_owned());
        let file = ask(Question { all: None, file_of: file });
        for name in ["GetTrainingStatus", "output_model_name", "positionInQueue", "queuing"] {
            assert!(file.contains(name), "{version}: {name} is not in {file:?}");
        }
    }
    for service in ["", "training.TrainingService"] {
        let health = Health { service: service.to_owned() };
        let healthy: Job =
            one(call(gateway.address, "/grpc.health.v1.Health/Check", None, &health));
        assert_eq!(healthy.job_id, 1, "SERVING is 1");
    }
}
