//! Pages: an image with its layers, known by what is in its files.

use std::fmt::Write as _;

use domain::hex_sha256;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Account, Object, Store, StoreError, now};

/// What a file of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The page itself.
    Image,
    /// Where the layers count.
    Regions,
    /// The background.
    Background,
    /// A layer, 0 to 9.
    Layer(u8),
}

impl Part {
    /// Its name, which is that of its file in a page's folder, without the ending.
    pub fn name(self) -> String {
        match self {
            Self::Image => "image".into(),
            Self::Regions => "regions".into(),
            Self::Background => "background".into(),
            Self::Layer(number) => format!("layer_{number}"),
        }
    }

    /// The part with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "image" => Some(Self::Image),
            "regions" => Some(Self::Regions),
            "background" => Some(Self::Background),
            _ => match name.strip_prefix("layer_")?.as_bytes() {
                [digit @ b'0'..=b'9'] => Some(Self::Layer(digit - b'0')),
                _ => None,
            },
        }
    }

    /// The layer that it is.
    pub fn layer(self) -> Option<domain::Layer> {
        match self {
            Self::Background => Some(domain::Layer::Background),
            Self::Layer(number) => Some(domain::Layer::Numbered(number)),
            Self::Image | Self::Regions => None,
        }
    }
}

/// A file of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageFile {
    /// What it is.
    pub part: Part,
    /// Its name in a page's folder, such as `image.jpg`.
    pub file: String,
    /// Its bytes.
    pub object: Object,
    /// For the background: how many pixels it has; for a layer: those inside the regions.
    pub pixels: Option<u64>,
}

/// A page that was checked and whose files are kept.
#[derive(Clone, Debug)]
pub struct NewPage {
    /// What its user calls it.
    pub name: String,
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
    /// Its files.
    pub files: Vec<PageFile>,
    /// A small JPEG of it.
    pub thumbnail: Object,
}

impl NewPage {
    /// Its id, which follows from its files: the same page twice is one page.
    pub fn id(&self) -> String {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| file.part);
        let mut text = String::new();
        for file in files {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{} {}", file.part.name(), file.object.sha256);
        }
        hex_sha256(text.as_bytes())[..32].to_owned()
    }
}

/// A page in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its number, which never comes twice.
    pub number: i64,
    /// Its id.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
    /// Name of the object that is a small JPEG of it.
    pub thumbnail: String,
    /// When it came.
    pub created_at: String,
    /// Its files.
    pub files: Vec<PageFile>,
}

impl Page {
    /// Its name for whoever asks, or the beginning of its id.
    pub fn title(&self) -> &str {
        if self.name.is_empty() { self.id.get(..8).unwrap_or(&self.id) } else { &self.name }
    }

    /// What keeps it from being trained well, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let empty = |file: &&PageFile| file.pixels == Some(0);
        let sentence = |file: &PageFile| {
            let name = file.part.layer().map(report::layer_name).unwrap_or_default();
            let (has, draw) = match file.part {
                // It counts on the whole page, and every training needs it.
                Part::Background => ("has no pixel", "draw in it"),
                _ => ("has no pixel inside the regions", "draw in it, or leave it out"),
            };
            format!("{name} {has}: a training of this page will be refused; {draw}")
        };
        self.files.iter().filter(empty).map(sentence).collect()
    }
}

impl Store {
    /// Notes a page and returns its id; false beside it when it was there. Either way the account,
    /// if there still is one of this number, may use it, by the name that it has given it first,
    /// and has it since now.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn add_page(&self, page: &NewPage, account: i64) -> Result<(String, bool), StoreError> {
        let id = page.id();
        let mut database = self.database();
        let change = database.transaction()?;
        for object in page.files.iter().map(|file| &file.object).chain([&page.thumbnail]) {
            change.execute(
                "INSERT INTO objects (sha256, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
                params![object.sha256, object.size],
            )?;
        }
        let new = change.execute(
            "INSERT INTO pages (id, name, width, height, thumbnail, created_at)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            params![id, page.name, page.width, page.height, page.thumbnail.sha256, now()],
        )? > 0;
        if new {
            for file in &page.files {
                change.execute(
                    "INSERT INTO page_files (page, part, file, sha256, pixels)
                     VALUES (?, ?, ?, ?, ?)",
                    params![id, file.part.name(), file.file, file.object.sha256, file.pixels],
                )?;
            }
        }
        change.execute(
            "INSERT INTO page_accounts (page, account, name, added_at)
             SELECT ?, id, ?, ? FROM accounts WHERE id = ?
             ON CONFLICT (page, account) DO UPDATE SET added_at = excluded.added_at",
            params![id, page.name, now(), account],
        )?;
        base::crash::point("before noting a page");
        change.commit()?;
        drop(database);
        base::crash::point("after noting a page");
        Ok((id, new))
    }

    /// The page of this id, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn page(&self, id: &str, account: &Account) -> Result<Option<Page>, StoreError> {
        let database = self.database();
        let sql = format!("{PAGES_OF_AN_ACCOUNT} AND pages.id = ?3");
        let asked = params![account.id, account.role.sees_all(), id];
        let Some(mut page) = database.query_row(&sql, asked, page_row).optional()? else {
            return Ok(None);
        };
        page.files = files(&database, id)?;
        Ok(Some(page))
    }

    /// The page of this number, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn page_numbered(
        &self,
        number: i64,
        account: &Account,
    ) -> Result<Option<Page>, StoreError> {
        let sql = "SELECT id FROM pages WHERE number = ?";
        let id: Option<String> =
            self.database().query_row(sql, [number], |row| row.get(0)).optional()?;
        id.map_or(Ok(None), |id| self.page(&id, account))
    }

    /// The newest pages that the account may see, at most `most`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pages(&self, account: &Account, most: u32) -> Result<Vec<Page>, StoreError> {
        let database = self.database();
        let sql = format!("{PAGES_OF_AN_ACCOUNT} ORDER BY created_at DESC, pages.id LIMIT ?3");
        let mut rows = database.prepare(&sql)?;
        let asked = params![account.id, account.role.sees_all(), most];
        let pages = rows.query_map(asked, page_row)?;
        let mut pages = pages.collect::<Result<Vec<_>, _>>()?;
        for page in &mut pages {
            page.files = files(&database, &page.id)?;
        }
        Ok(pages)
    }

    /// The pages that a run learns from, in their order.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pages_of(&self, run: i64) -> Result<Vec<Page>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT pages.* FROM run_pages JOIN pages ON pages.id = run_pages.page
             WHERE run_pages.run = ? ORDER BY position",
        )?;
        let mut pages = rows.query_map([run], page_row)?.collect::<Result<Vec<_>, _>>()?;
        for page in &mut pages {
            page.files = files(&database, &page.id)?;
        }
        Ok(pages)
    }
}

/// The pages that the account ?1 may see, all of them where ?2 says so: by its own name and since
/// it has them, else as they came first.
const PAGES_OF_AN_ACCOUNT: &str = "
    SELECT pages.number AS number, pages.id AS id, coalesce(own.name, pages.name) AS name,
        pages.width AS width, pages.height AS height, pages.thumbnail AS thumbnail,
        coalesce(own.added_at, pages.created_at) AS created_at
    FROM pages LEFT JOIN page_accounts AS own ON own.page = pages.id AND own.account = ?1
    WHERE (?2 OR own.page IS NOT NULL)";

fn page_row(row: &Row<'_>) -> rusqlite::Result<Page> {
    Ok(Page {
        number: row.get("number")?,
        id: row.get("id")?,
        name: row.get("name")?,
        width: row.get("width")?,
        height: row.get("height")?,
        thumbnail: row.get("thumbnail")?,
        created_at: row.get("created_at")?,
        files: Vec::new(),
    })
}

fn files(database: &rusqlite::Connection, page: &str) -> Result<Vec<PageFile>, StoreError> {
    let mut rows = database.prepare(
        "SELECT part, file, pixels, objects.sha256, size FROM page_files
         JOIN objects ON objects.sha256 = page_files.sha256 WHERE page = ? ORDER BY part",
    )?;
    let file = |row: &Row<'_>| {
        let part: String = row.get("part")?;
        let file = PageFile {
            part: Part::Image,
            file: row.get("file")?,
            object: Object { sha256: row.get("sha256")?, size: row.get("size")? },
            pixels: row.get("pixels")?,
        };
        Ok((part, file))
    };
    let mut files = Vec::new();
    for row in rows.query_map([page], file)? {
        let (part, file) = row?;
        let part = Part::from_name(&part)
            .ok_or_else(|| StoreError::Content { what: "a part of a page", detail: part })?;
        files.push(PageFile { part, ..file });
    }
    files.sort_by_key(|file| file.part);
    Ok(files)
}

#[cfg(test)]
mod tests {
    use base::secret::Secret;
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::store::{DataFolder, Role};

    fn file(part: Part, pixels: Option<u64>) -> PageFile {
        let file = format!("{}.png", part.name());
        let object = Object { sha256: hex_sha256(file.as_bytes()), size: 1 };
        PageFile { part, file, object, pixels }
    }

    #[test]
    fn accounts_that_have_a_page_have_it_by_their_own_names_and_since_they_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DataFolder::at(&folder.path().join("data")).unwrap()).unwrap();
        let account = |name: &str, role: Role| {
            let token = Secret::new(name);
            store.add_account(name, role, &token).unwrap();
            store.account_of(&token).unwrap().unwrap()
        };
        let one = account("one", Role::Submitter);
        let other = account("other", Role::Submitter);
        let viewer = account("viewer", Role::Viewer);
        let upload = |name: &str, by: &Account| {
            let files = vec![file(Part::Image, None)];
            let thumbnail = file(Part::Regions, None).object;
            let page = NewPage { name: name.to_owned(), width: 1, height: 1, files, thumbnail };
            store.add_page(&page, by.id).unwrap()
        };
        let (id, new) = upload("mine", &one);
        assert!(new && store.page(&id, &other).unwrap().is_none());
        let long_ago = "UPDATE pages SET created_at = '2001'; \
            UPDATE page_accounts SET added_at = '2001'";
        store.database().execute_batch(long_ago).unwrap();
        assert!(!upload("theirs", &other).1);
        for (account, name, since) in
            [(&one, "mine", "2001"), (&other, "theirs", "20"), (&viewer, "mine", "2001")]
        {
            let page = store.page(&id, account).unwrap().unwrap();
            assert_eq!(page.name, name);
            assert!(page.created_at.starts_with(since), "{name}: {}", page.created_at);
            assert_eq!(page.created_at == "2001", since == "2001", "{name}");
            assert_eq!(store.pages(account, 9).unwrap(), [page]);
        }
        // It goes when nobody has uploaded it for long; the same upload again counts, too.
        let purge = || store.purge(Timestamp::now() - SignedDuration::from_hours(1)).unwrap().pages;
        assert_eq!(purge(), 0);
        store.database().execute_batch(long_ago).unwrap();
        assert!(!upload("again", &one).1);
        assert_eq!(store.page(&id, &one).unwrap().unwrap().name, "mine");
        assert_eq!(purge(), 0);
        store.database().execute_batch(long_ago).unwrap();
        assert_eq!(purge(), 1);
    }

    #[test]
    fn what_has_no_pixel_is_told_of_where_it_counts() {
        let files = vec![file(Part::Background, Some(0)), file(Part::Layer(3), Some(0))];
        let page = Page {
            number: 1,
            id: "0123456789".into(),
            name: String::new(),
            width: 1,
            height: 1,
            thumbnail: String::new(),
            created_at: String::new(),
            files,
        };
        let warnings = page.warnings();
        let [background, layer] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(background.starts_with("Background has no pixel: "), "{background}");
        assert!(!background.contains("leave it out"), "{background}");
        assert!(layer.starts_with("Layer 3 has no pixel inside the regions: "), "{layer}");
    }
}
