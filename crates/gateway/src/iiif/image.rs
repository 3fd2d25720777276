//! What an address of a IIIF image leads to (Image API 1.1, 2 and 3): pure functions.

use page_layers::MAX_PIXELS;
use serde_json::Value;
use thiserror::Error;
use url::Url;

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// An image whose description has to be read first: the address that all of its requests begin
    /// with.
    Service(Url),
    /// A request for the image itself, with a size and a format of its own.
    Request(Url),
}

/// A description that leads to no image.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum NoImage {
    #[error(
        "the info.json of the address is no description of a IIIF image with a width and a height"
    )]
    Description,
    #[error("the image has more than {} megapixels", MAX_PIXELS / 1_000_000)]
    TooLarge,
}

/// What the address names: `…/ID/info.json`, `…/ID`, or `…/ID/full/max/0/default.jpg`.
pub(super) fn named(address: &Url) -> Named {
    let mut address = address.clone();
    address.set_fragment(None);
    let parts: Vec<String> =
        address.path_segments().map(|parts| parts.map(str::to_owned).collect()).unwrap_or_default();
    if let [.., _region, _size, rotation, file] = &parts[..]
        && parts.len() > 4
        && is_rotation(rotation)
        && is_file(file)
    {
        return Named::Request(address);
    }
    address.set_query(None);
    if let Ok(mut path) = address.path_segments_mut() {
        path.pop_if_empty();
        if parts.last().is_some_and(|last| last == "info.json") {
            path.pop();
        }
    }
    Named::Service(address)
}

fn is_rotation(part: &str) -> bool {
    part.trim_start_matches('!').parse::<f64>().is_ok_and(f64::is_finite)
}

/// Whether it is a quality and a format, such as `default.jpg`.
fn is_file(part: &str) -> bool {
    let qualities = ["default", "native", "color", "colour", "gray", "grey", "bitonal"];
    part.split_once('.').is_some_and(|(quality, format)| {
        qualities.contains(&quality)
            && !format.is_empty()
            && format.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// The address of something that belongs to an image.
pub(super) fn below(service: &Url, parts: &[&str]) -> Url {
    let mut address = service.clone();
    // An address of http or https has a path.
    if let Ok(mut path) = address.path_segments_mut() {
        path.extend(parts);
    }
    address
}

/// The requests for the whole image in its full size, the likeliest first. Always below the address
/// that was given: what the description calls itself may lie elsewhere.
///
/// # Errors
/// When it is no description, or of an image that is too large.
pub(super) fn whole(service: &Url, description: &Value) -> Result<Vec<Url>, NoImage> {
    let (Some(width), Some(height)) =
        (description["width"].as_u64(), description["height"].as_u64())
    else {
        return Err(NoImage::Description);
    };
    // A server with limits of its own sends a smaller image.
    let limit = |name: &str| description[name].as_u64();
    let area = limit("maxArea").unwrap_or(u64::MAX);
    let widest = limit("maxWidth")
        .map_or(u64::MAX, |width| width.saturating_mul(limit("maxHeight").unwrap_or(width)));
    if width.saturating_mul(height).min(area).min(widest) > MAX_PIXELS {
        return Err(NoImage::TooLarge);
    }
    let context = text_of(&description["@context"]);
    let requests: &[[&str; 4]] = if context.contains("/1/") || context.contains("1.1") {
        &[["full", "full", "0", "native.jpg"], ["full", "full", "0", "default.jpg"]]
    } else if context.contains("/2/") {
        // `full` is what all of the second version know, `max` what replaces it.
        &[["full", "full", "0", "default.jpg"], ["full", "max", "0", "default.jpg"]]
    } else {
        &[["full", "max", "0", "default.jpg"], ["full", "full", "0", "default.jpg"]]
    };
    Ok(requests.iter().map(|request| below(service, request)).collect())
}

/// A context is a text, or a list of which the last counts.
fn text_of(context: &Value) -> &str {
    let last = context.as_array().and_then(|all| all.last()).unwrap_or(context);
    last.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_address_names_an_image_or_a_request_for_it() {
        let service = |text: &str| Named::Service(url(text));
        let request = |text: &str| Named::Request(url(text));
        for (address, found) in [
            ("https://a/iiif/x/info.json", service("https://a/iiif/x")),
            ("https://a/iiif/x", service("https://a/iiif/x")),
            ("https://a/iiif/x/?q=1#top", service("https://a/iiif/x")),
            ("https://a/iiif/x%2Fy/info.json", service("https://a/iiif/x%2Fy")),
            (
                "https://a/iiif/x/full/max/0/default.jpg#top",
                request("https://a/iiif/x/full/max/0/default.jpg"),
            ),
            (
                "https://a/x/0,0,900,900/900,/!90.5/gray.png?v=2",
                request("https://a/x/0,0,900,900/900,/!90.5/gray.png?v=2"),
            ),
            ("https://a/x/full/max/0/other.jpg", service("https://a/x/full/max/0/other.jpg")),
            ("https://a/full/max/0/default.jpg", service("https://a/full/max/0/default.jpg")),
            ("https://a", service("https://a/")),
        ] {
            assert_eq!(named(&url(address)), found, "{address}");
        }
    }

    #[test]
    fn the_whole_image_is_asked_for_in_the_words_of_its_version() {
        let service = url("https://a/iiif/x");
        let first = |context: Value| {
            // What it calls itself is not where it is asked.
            let description = json!({
                "@context": context, "@id": "https://evil.example/x", "id": "file:///etc/passwd",
                "width": 3000, "height": 4000,
            });
            let requests = whole(&service, &description).unwrap();
            assert!(requests.iter().all(|request| request.host_str() == Some("a")));
            requests[0].to_string()
        };
        for (context, request) in [
            (json!("http://iiif.io/api/image/3/context.json"), "full/max/0/default.jpg"),
            (json!("http://iiif.io/api/image/2/context.json"), "full/full/0/default.jpg"),
            (
                json!("http://library.stanford.edu/iiif/image-api/1.1/context.json"),
                "full/full/0/native.jpg",
            ),
            (
                json!(["http://other", "http://iiif.io/api/image/3/context.json"]),
                "full/max/0/default.jpg",
            ),
            (json!(null), "full/max/0/default.jpg"),
        ] {
            assert_eq!(first(context), format!("https://a/iiif/x/{request}"));
        }
    }

    #[test]
    fn a_description_is_one_of_an_image_that_can_be_decoded() {
        let service = url("https://a/x");
        for (description, found) in [
            (json!(null), Some(NoImage::Description)),
            (json!([]), Some(NoImage::Description)),
            (json!({"width": -1, "height": 5}), Some(NoImage::Description)),
            (json!({"width": "9", "height": "9"}), Some(NoImage::Description)),
            (json!({"width": 20_000, "height": 20_000}), Some(NoImage::TooLarge)),
            (json!({"width": u64::MAX, "height": u64::MAX}), Some(NoImage::TooLarge)),
            (json!({"width": 20_000, "height": 20_000, "maxWidth": 4_000}), None),
            (json!({"width": 20_000, "height": 20_000, "maxArea": 9_000_000}), None),
            (json!({"width": 12_000, "height": 12_000}), None),
        ] {
            assert_eq!(whole(&service, &description).err(), found, "{description}");
        }
    }
}
