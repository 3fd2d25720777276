//! The time on Rodan's clock.

use jiff::Timestamp;
use reqwest::header::DATE;

use super::client::{Client, describe};
use base::address::RodanAddress;

/// The date of an answer (of any page); `None` if the server gives none.
///
/// # Errors
///
/// When there is no answer.
pub async fn server_time(
    client: &Client,
    rodan: &RodanAddress,
) -> Result<Option<Timestamp>, String> {
    let response =
        client.0.head(rodan.url().clone()).send().await.map_err(|error| describe(&error))?;
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    Ok(date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|zoned| zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_servers_date_is_read() {
        let zoned = jiff::fmt::rfc2822::parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(zoned.timestamp().as_second(), 784_111_777);
    }
}
