//! The image of a page comes from a IIIF server, where the administrator allows it, and from
//! nowhere else.
#![cfg(feature = "gateway")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::local::Page;
use crate::support::gateway::{Gateway, QUICK, Site, form, id_of, page, tiny};
use crate::support::write_script;

/// An image server of the third version, and some that are not what they should be.
struct Images {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Images {
    fn serve(image: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(client.try_clone().unwrap());
                let _ = reader.read_line(&mut line);
                let mut rest = String::new();
                while reader.read_line(&mut rest).is_ok_and(|read| read > 2) {
                    rest.clear();
                }
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                let info = |width: u32| {
                    json!({"@context": "http://iiif.io/api/image/3/context.json", "width": width,
                        "height": width, "id": "http://evil.example/x"})
                };
                let moved = |to: &str| ("302 Found", format!("Location: {to}\r\n"), Vec::new());
                let whole = |body: Vec<u8>| ("200 OK", String::new(), body);
                let (status, more, body) = match &*path {
                    "/page/info.json" => whole(info(150).to_string().into_bytes()),
                    "/page/full/max/0/default.jpg" => whole(image.clone()),
                    "/moved" | "/moved/info.json" => moved("/page/info.json"),
                    "/elsewhere/info.json" => moved("http://127.0.0.1:9/page/info.json"),
                    "/round/info.json" => moved("/round/info.json"),
                    "/huge/info.json" => whole(info(90_000).to_string().into_bytes()),
                    "/fat/full/max/0/default.jpg" => whole(vec![0; 2_000_000]),
                    "/words/info.json" => whole(b"<html>".to_vec()),
                    _ => ("404 Not Found", String::new(), b"secret of the inside".to_vec()),
                };
                heard.lock().unwrap().push(path);
                let head = format!(
                    "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = client.write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Self { address, asked }
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A form with the address of an image and these files.
fn named(address: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let text = "--edge\r\nContent-Disposition: form-data; name=\"image_url\"\r\n\r\n";
    [text.as_bytes(), address.as_bytes(), b"\r\n", &form(files)].concat()
}

#[test]
fn the_image_of_a_page_comes_from_a_iiif_server_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (trainer, drawn) = (folder.path().join("trainer"), Page::cut(150, 150));
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn.path("").display()));
    let images = Images::serve(fs::read(drawn.path("image.png")).unwrap());
    let site = Site::with_trainer(&trainer);
    let port = images.address.port();
    let allowed = format!("{}, localhost:{port}", images.address);
    let allowed = [("ALLOWED_IIIF_HOSTS", allowed)];
    let gateway = site.try_start(&allowed, &["--max-upload", "1"]).unwrap();
    let mut layers = page();
    layers.retain(|(name, _)| name != "image.png");
    let upload =
        |gateway: &Gateway, address: &str| gateway.send_form("/v1/pages", &named(address, &layers));

    // As a file, it is the same page.
    let id = id_of(&upload(&gateway, &images.at("/page/info.json")).expect(201));
    assert_eq!(id_of(&gateway.upload(&page()).unwrap().expect(200)), id);
    for path in ["/page", "/page/full/max/0/default.jpg", "/moved"] {
        assert_eq!(id_of(&upload(&gateway, &images.at(path)).expect(200)), id, "{path}");
    }

    // What is no such address, or leads elsewhere.
    images.asked.lock().unwrap().clear();
    for (address, status, words) in [
        ("http://127.0.0.1:9/page/info.json".to_owned(), 422, "does not ask"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), 422, "does not ask"),
        ("file:///etc/passwd".to_owned(), 422, "must begin with https://"),
        ("page 12".to_owned(), 422, "must be the address of a IIIF image"),
        (format!("http://me:secret@{}/page", images.address), 422, "must not hold a user name"),
        // Its name is allowed, and leads to this machine.
        (format!("http://localhost:{port}/page"), 502, "private network"),
    ] {
        let refused = upload(&gateway, &address).expect(status).json();
        let said = refused["detail"].as_str().unwrap();
        assert!(said.contains(words) && !said.contains("secret"), "{address}: {said}");
        if status == 422 {
            assert_eq!(refused["errors"][0]["pointer"], "/image_url");
        }
    }
    assert_eq!(*images.asked.lock().unwrap(), Vec::<String>::new());
    for (path, status, words) in [
        ("/elsewhere/info.json", 502, "leads elsewhere"),
        ("/round/info.json", 502, "round and round"),
        ("/huge/info.json", 413, "150 megapixels"),
        ("/fat/full/max/0/default.jpg", 413, "larger than this gateway takes"),
        ("/words/info.json", 502, "no description"),
        ("/absent/info.json", 502, "status 404"),
    ] {
        let refused = upload(&gateway, &images.at(path)).expect(status).text();
        assert!(refused.contains(words) && !refused.contains("inside"), "{path}: {refused}");
    }
    let both = gateway.send_form("/v1/pages", &named(&images.at("/page"), &page()));
    assert_eq!(both.expect(422).json()["errors"][0]["pointer"], "/image_url");

    // Models are applied to such an image, too.
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    gateway.finish(1);
    let asked = named(&images.at("/page/info.json"), &[]);
    gateway.send_form("/v1/runs/1/apply", &asked).expect(202);
    let run = gateway.finish(2);
    assert_eq!((&run["state"], run["made_page"].is_string()), (&json!("succeeded"), true));
    gateway.terminate();
    site.assert_tidy("IIIF");

    // Nobody is asked where nobody is allowed.
    let gateway = site.start();
    upload(&gateway, &images.at("/page/info.json")).expect(422);
    gateway.terminate();
}
