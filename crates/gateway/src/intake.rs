//! Pages come in: streamed to the disk, decoded as the trainer does it, and kept.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use domain::{InputKind, Layer};
use page_layers::{Page as Decoded, PageError, PageInputs};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::SemaphorePermit;
use tracing::{error, warn};

use crate::app::{App, blocking};
use crate::iiif::{self, IiifError};
use crate::order::FieldProblem;
use crate::page_files::{self, Files, KeepError};
use crate::problem::Problem;
use crate::store::{Account, Image, Page, Part, Store, StoreError};
use crate::upload_form::{TOO_LARGE, UploadField, UploadForm};

/// Most bytes of a text among the parts of a form.
const LONGEST_TEXT: usize = 1000;

/// The text with the address of a IIIF image.
pub(crate) const IMAGE_URL: &str = "image_url";

/// Most parts of a form.
const MOST_PARTS: usize = 40;

/// What has come in, in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Upload {
    folder: PathBuf,
    /// The texts of the form, by name.
    pub texts: BTreeMap<String, String>,
    files: Files,
    archive: Option<PathBuf>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            warn!("{}: can't be removed: {error}", self.folder.display());
        }
    }
}

impl Upload {
    /// Whether no file has come.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.archive.is_none()
    }
}

/// A place among the uploads that come in now; an upload holds it to its end.
///
/// # Errors
/// When all are taken.
pub(crate) fn place(app: &App) -> Result<SemaphorePermit<'_>, Problem> {
    app.uploads.try_acquire().map_err(|_| {
        let what = "too many uploads come in at the moment; send it again in a minute";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).again_in(60)
    })
}

/// Writes the parts of a form to the disk as they come. It may have these texts besides; with
/// [`IMAGE_URL`] among them, the image may be named by its address, from where it is fetched.
///
/// # Errors
/// When the form is broken, too large, or names no part of a page; when the disk is full; when the
/// image can't be fetched.
pub(crate) async fn receive(
    app: &App,
    form: UploadForm,
    texts: &[&str],
) -> Result<Upload, Problem> {
    let limit = app.limits.upload_bytes;
    let incoming = app.store.folder().incoming();
    let mut upload = receive_in(&incoming, limit, form, texts).await?;
    let address = upload.texts.get(IMAGE_URL).map(|address| address.trim().to_owned());
    if let Some(address) = address.filter(|address| !address.is_empty()) {
        let wrong = |what: &str| Problem::fields(vec![FieldProblem::new("/image_url", what)]);
        if upload.files.contains_key(&Part::Image) || upload.archive.is_some() {
            return Err(wrong("must not come with an image or a zip: send one or the other"));
        }
        let path = upload.folder.join(Part::Image.name());
        iiif::fetch(&app.iiif, &address, &path, limit).await.map_err(|error| match error {
            IiifError::Address(what) => wrong(&what),
            IiifError::TooLarge(what) => too_large(&what),
            IiifError::Server(what) => Problem::new(StatusCode::BAD_GATEWAY, what),
            IiifError::Client(error) => {
                error!("{error}");
                let what = "the gateway can't ask other servers; its log says why";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what)
            }
            IiifError::File(error) => unwritten(&path, error),
        })?;
        upload.files.insert(Part::Image, path);
    }
    Ok(upload)
}

/// The same, into a folder in `incoming`.
///
/// # Errors
/// The same.
pub(crate) async fn receive_in(
    incoming: &Path,
    mut left: u64,
    mut form: UploadForm,
    texts: &[&str],
) -> Result<Upload, Problem> {
    let folder = incoming.join(uuid::Uuid::new_v4().to_string());
    DirBuilder::new().mode(0o700).create(&folder).map_err(|error| unwritten(&folder, error))?;
    let mut upload =
        Upload { folder, texts: BTreeMap::new(), files: BTreeMap::new(), archive: None };
    let mut parts = 0;
    while let Some(field) = form.next().await? {
        parts += 1;
        if parts > MOST_PARTS {
            return Err(too_large(&format!("the form has over {MOST_PARTS} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.file_name().map(str::to_owned);
        match kind_of(&name, file.as_deref()) {
            Kind::Nothing => {}
            Kind::Text if !texts.contains(&name.as_str()) => {
                let name = base::text::printable(&name, 60);
                let what = format!("there is no part {name} of this form; leave it out");
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
            }
            Kind::Text => {
                let text = text(field).await?;
                upload.texts.insert(name, text);
            }
            Kind::Part(part) => {
                let path = upload.folder.join(part.name());
                if upload.files.contains_key(&part) {
                    let what = format!("{} is there twice; leave one", part.name());
                    return Err(Problem::fields(vec![FieldProblem::new(pointer(part), what)]));
                }
                if write(field, &path, &mut left).await? {
                    upload.files.insert(part, path);
                }
            }
            Kind::Archive => {
                let path = upload.folder.join("archive.zip");
                if upload.archive.is_some() {
                    let what = "there are two zips; send one page at a time";
                    return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
                }
                if write(field, &path, &mut left).await? {
                    upload.archive = Some(path);
                }
            }
            Kind::Unknown(name) => {
                let what = format!(
                    "{name} is no part of a page; the files are called image.png (or .jpg), \
                     background.png, regions.png and layer_0.png to layer_9.png, or are one zip \
                     of Pixel"
                );
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
            }
        }
    }
    Ok(upload)
}

/// What a part of a form is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A file's input where none was chosen.
    Nothing,
    Text,
    Part(Part),
    Archive,
    Unknown(String),
}

/// By the name of its file, else by that of its field.
fn kind_of(field: &str, file: Option<&str>) -> Kind {
    let Some(file) = file else {
        return part_of(field).map_or(Kind::Text, Kind::Part);
    };
    if file.is_empty() {
        return Kind::Nothing;
    }
    // Some browsers and programs send the folder, too.
    let file = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let (stem, ending) = file.rsplit_once('.').unwrap_or((file, ""));
    if ending.eq_ignore_ascii_case("zip") {
        return Kind::Archive;
    }
    match part_of(stem).or_else(|| part_of(field)) {
        Some(part) => Kind::Part(part),
        None => Kind::Unknown(base::text::printable(file, 60)),
    }
}

/// The part with this name: that of a page's folder, or Rodan's.
fn part_of(name: &str) -> Option<Part> {
    Part::from_name(&name.to_ascii_lowercase()).or_else(|| part(InputKind::from_image_name(name)?))
}

fn part(kind: InputKind) -> Option<Part> {
    match kind {
        InputKind::Image => Some(Part::Image),
        InputKind::Regions => Some(Part::Regions),
        InputKind::Layer(Layer::Background) => Some(Part::Background),
        InputKind::Layer(Layer::Numbered(number)) => Some(Part::Layer(number)),
        _ => None,
    }
}

fn pointer(part: Part) -> String {
    format!("/{}", part.name())
}

async fn text(mut field: UploadField<'_>) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_TEXT {
            return Err(too_large(&format!("a text of the form has over {LONGEST_TEXT} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a part to the disk. False where it is empty, as the input of a form is for which no file
/// was chosen: then nothing is left, and another part, or an image from elsewhere, takes its place.
async fn write(mut field: UploadField<'_>, path: &Path, left: &mut u64) -> Result<bool, Problem> {
    let failed = |error| unwritten(path, error);
    let file = File::options().create_new(true).write(true).mode(0o600).open(path);
    let mut file = tokio::fs::File::from_std(file.map_err(failed)?);
    let mut size = 0;
    while let Some(chunk) = field.chunk().await? {
        let length = chunk.len() as u64;
        let Some(rest) = left.checked_sub(length) else {
            return Err(too_large(TOO_LARGE));
        };
        (*left, size) = (rest, size + length);
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if size == 0 {
        fs::remove_file(path).map_err(failed)?;
    }
    Ok(size > 0)
}

fn too_large(what: &str) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what)
}

fn unwritten(path: &Path, source: std::io::Error) -> Problem {
    let path = path.to_owned();
    Problem::from(StoreError::File { path, what: "can't be written", source })
}

/// Checks what has come in and keeps it; false beside the page when it was there before.
///
/// # Errors
/// When it is no page that can be trained; when it can't be kept.
pub(crate) async fn take(
    app: &App,
    upload: Upload,
    account: Account,
) -> Result<(Page, bool), Problem> {
    let limit = app.limits.upload_bytes;
    decode(app, move |store| check(store, &upload, &account, limit)).await
}

/// Checks that what has come in is the image of a page, and keeps it.
///
/// # Errors
/// When it is none, or something else has come with it; when it can't be kept.
pub(crate) async fn take_image(app: &App, upload: Upload) -> Result<Image, Problem> {
    decode(app, move |store| {
        let only = |what: &str| Problem::fields(vec![FieldProblem::new("/image", what)]);
        let image = upload.files.get(&Part::Image).filter(|_| upload.archive.is_none());
        let Some(path) = image else {
            return Err(only("is missing: send the image of a page, as PNG or JPEG"));
        };
        if upload.files.len() > 1 {
            return Err(only("must come alone: layers are what the models are to find"));
        }
        drop(Decoded::of_image(path).map_err(|error| no_page(&upload, &error))?);
        let object = store.objects().keep(path).map_err(|error| unwritten(path, error))?;
        Ok(Image { object, file: format!("image.{}", page_files::ending(path)) })
    })
    .await
}

/// Does work that decodes a page: one at a time, on a thread that may wait.
async fn decode<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Store) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let Ok(_turn) = app.decoding.acquire().await else {
        let ending = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is ending");
        return Err(ending.again_in(10));
    };
    let store = std::sync::Arc::clone(&app.store);
    blocking(move || work(&store)).await?
}

/// Why it is no page, without the place where it lay.
fn no_page(upload: &Upload, error: &PageError) -> Problem {
    let place = upload.folder.display().to_string() + "/";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string().replace(&place, ""))
}

fn check(
    store: &Store,
    upload: &Upload,
    account: &Account,
    limit: u64,
) -> Result<(Page, bool), Problem> {
    base::crash::point("before checking a page");
    let files = files_of(upload, limit)?;
    let inputs = inputs(&files)?;
    let name = upload.texts.get("name").map_or("", String::as_str);
    let new = page_files::keep(store.objects(), &inputs, &files, name, &upload.folder);
    let new = new.map_err(|error| match error {
        KeepError::Page(error) => no_page(upload, &error),
        KeepError::File { path, source } => unwritten(&path, source),
    })?;
    let (id, new) = store.add_page(&new, account.id)?;
    let page = store.page(&id, account)?.ok_or_else(|| Problem::missing("such page"))?;
    Ok((page, new))
}

/// The files of the page, out of the zip if it came in one.
fn files_of(upload: &Upload, limit: u64) -> Result<Files, Problem> {
    let Some(archive) = &upload.archive else { return Ok(upload.files.clone()) };
    let refuse = |what: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    if !upload.files.is_empty() {
        return Err(refuse("there is a zip beside single files; send one or the other".into()));
    }
    let folder = upload.folder.join("unpacked");
    let kind = InputKind::Sample(1);
    let pages = page_layers::unpack(kind, archive, &folder, limit)
        .map_err(|error| refuse(error.to_string()))?;
    let [page] = &pages[..] else { return Err(refuse("the zip holds several pages".into())) };
    let mut files = BTreeMap::from([
        (Part::Image, page.image.clone()),
        (Part::Background, page.background.clone()),
    ]);
    files.extend(page.regions.clone().map(|path| (Part::Regions, path)));
    for (layer, path) in &page.layers {
        let Some(part) = part(InputKind::Layer(*layer)) else {
            return Err(refuse(format!(
                "the zip has the layer \"{}\", a name that only Rodan's older jobs know; call it \
                 \"rgba PNG - Layer 0\" or another number",
                layer.input_name()
            )));
        };
        files.insert(part, path.clone());
    }
    Ok(files)
}

/// What the decoder wants, or what is missing.
fn inputs(files: &Files) -> Result<PageInputs, Problem> {
    if let Some(inputs) = page_files::inputs(files) {
        return Ok(inputs);
    }
    let mut missing = Vec::new();
    if !files.contains_key(&Part::Image) {
        missing.push(FieldProblem::new("/image", "is missing: send the page, as PNG or JPEG"));
    }
    if !files.contains_key(&Part::Background) {
        let what = "is missing: export the background as an RGBA PNG";
        missing.push(FieldProblem::new("/background", what));
    }
    if !files.keys().any(|part| matches!(part, Part::Layer(_))) {
        let what = "is missing: export at least one layer as an RGBA PNG";
        missing.push(FieldProblem::new("/layer_0", what));
    }
    Err(Problem::fields(missing))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::{FromRequest as _, Request};

    use super::*;

    #[test]
    fn a_part_is_known_by_its_file_or_its_field() {
        let cases = [
            ("files", Some("image.png"), Kind::Part(Part::Image)),
            ("files", Some("C:\\pages\\Layer_7.PNG"), Kind::Part(Part::Layer(7))),
            ("image", Some("folio 12.jpg"), Kind::Part(Part::Image)),
            ("x", Some("rgba PNG - Layer 3.png"), Kind::Part(Part::Layer(3))),
            ("x", Some("rgba PNG - Selected regions.png"), Kind::Part(Part::Regions)),
            ("regions", None, Kind::Part(Part::Regions)),
            ("name", None, Kind::Text),
            ("layer_3", Some(""), Kind::Nothing),
            ("files", Some("a.ZIP"), Kind::Archive),
            ("files", Some("../../etc/passwd"), Kind::Unknown("passwd".into())),
            ("files", Some("layer_10.png"), Kind::Unknown("layer_10.png".into())),
        ];
        for (field, file, expected) in cases {
            assert_eq!(kind_of(field, file), expected, "{field} {file:?}");
        }
    }

    #[test]
    fn an_empty_part_leaves_its_place_to_another() {
        let part = |file: &str, content: &str| {
            let names = format!("name=\"files\"; filename=\"{file}\"");
            format!("--edge\r\nContent-Disposition: form-data; {names}\r\n\r\n{content}\r\n")
        };
        let incoming = tempfile::tempdir().unwrap();
        let receive = |parts: [String; 2]| {
            let request = Request::post("/v1/pages")
                .header("content-type", "multipart/form-data; boundary=edge")
                .body(Body::from(parts.concat() + "--edge--\r\n"))
                .unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let form = UploadForm::from_request(request, &()).await.unwrap();
                receive_in(incoming.path(), 100, form, &[]).await
            })
        };
        let upload = receive([part("image.png", ""), part("image.png", "x")]).unwrap();
        assert_eq!(fs::read(&upload.files[&Part::Image]).unwrap(), b"x");
        let upload = receive([part("a.zip", ""), part("b.zip", "x")]).unwrap();
        assert_eq!(fs::read(upload.archive.as_ref().unwrap()).unwrap(), b"x");
        // An image from elsewhere is written to the same place.
        let upload = receive([part("image.png", ""), part("layer_0.png", "x")]).unwrap();
        assert!(!upload.folder.join(Part::Image.name()).exists());
        let refused = receive([part("image.png", "x"), part("image.png", "y")]).unwrap_err();
        assert_eq!(refused.status, 422);
    }

    #[test]
    fn what_is_missing_is_pointed_at() {
        let problem = inputs(&BTreeMap::new()).unwrap_err();
        let pointers: Vec<_> = problem.errors.iter().map(|error| &*error.pointer).collect();
        assert_eq!(pointers, ["/image", "/background", "/layer_0"]);
        let files = [Part::Image, Part::Background, Part::Layer(4)];
        let files = files.map(|part| (part, PathBuf::from(part.name())));
        let found = inputs(&BTreeMap::from(files)).unwrap();
        assert_eq!(found.layers, [(Layer::Numbered(4), PathBuf::from("layer_4"))]);
    }
}
