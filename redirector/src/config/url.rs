//! HTTP URLs, as far as checks need them.

use super::{address, error::Complaint};
use crate::model::Url;

/// `http://host:port/path` or `https://…`. The port may be left out.
///
/// A URL that names a user is not repeated in a message: what follows is a password.
pub(super) fn url(key: &str, text: &str) -> Result<Url, Complaint> {
    let example = format!("write it like {key} = \"https://cluster.example.com:9443\"");
    let wrong = |why: &str| Complaint::new(format!("`{key}` {text:?} {why}"), example.clone());
    if text.contains('@') {
        return Err(Complaint::new(
            format!("`{key}` names a user"),
            "remove what stands before the `@`, and it",
        ));
    }
    let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong("begins with neither http:// nor https://")),
    };
    let (authority, path_and_query) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let usual = if is_https { 443 } else { 80 };
    let endpoint = if has_port { authority.to_owned() } else { format!("{authority}:{usual}") };
    let endpoint = address::endpoint(&endpoint).map_err(|_| wrong("has no legal host or port"))?;
    let path_and_query = match path_and_query {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    let path = path(key, &path_and_query)
        .map_err(|_| wrong("has a `#`, or characters that are not sent as they are (write them as %XX)"))?;
    Ok(Url { is_https, host: endpoint.host, port: endpoint.port, path })
}

/// Path and query as they are sent (RFC 9112, 3.2.1).
pub(super) fn path(key: &str, text: &str) -> Result<String, Complaint> {
    let is_legal = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_legal && text.parse::<hyper::http::uri::PathAndQuery>().is_ok() {
        return Ok(text.to_owned());
    }
    let cause = format!("`{key}` {text:?} has no path that can be sent");
    Err(Complaint::new(
        cause,
        "begin it with `/`, and write other than plain characters as %XX, without a `#`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        url("url", text).map_or_else(|complaint| format!("{complaint:?}"), |url| url.to_string())
    }

    #[test]
    fn what_is_left_out_is_what_the_scheme_says() {
        assert_eq!(shown("https://a.example"), "https://a.example/");
        assert_eq!(shown("https://a.example:443/x"), "https://a.example/x");
        assert_eq!(shown("http://a.example?b=c"), "http://a.example/?b=c");
        assert_eq!(shown("http://10.0.0.1:8080/x?y=/z"), "http://10.0.0.1:8080/x?y=/z");
        assert_eq!(shown("http://[2001:db8::1]"), "http://[2001:db8::1]/");
        assert_eq!(shown("https://[2001:db8::1]:9443"), "https://[2001:db8::1]:9443/");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "a.example",
            "ftp://a.example",
            "https://",
            "https://:80",
            "https://a b",
            "https://a:0",
            "https://a:http",
            "https://a/ b",
            "https://a/#b",
            "https://[::1",
            "https://fd00::1:80",
            "https://a/\u{e4}",
        ] {
            assert!(url("url", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_and_what_follows_are_not_repeated() {
        assert!(!shown("https://viewer:sesame@a.example").contains("sesame"));
    }
}
