//! How kinds and URLs are written in a placement file.

use http::Uri;

/// Whether a resource can be written so in a rule.
///
/// # Errors
/// What is wrong with it, to stand behind it in a sentence.
pub(super) fn check_kind(text: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let segments: Vec<&str> = text.split('/').collect();
    if segments.iter().any(|segment| segment.is_empty() || !segment.bytes().all(legal)) {
        return Err("is not a resource such as `pods` or `example.com/widgets`");
    }
    match segments[..] {
        [resource] if resource.contains('.') => {
            Err("is a custom resource, which is written `group/resource`")
        }
        [_] => Ok(()),
        [group, _] if group.contains('.') => Ok(()),
        _ => Err("has a slash, but no group with a dot before it; for other keys write `prefix:`"),
    }
}

/// The URL of a brain as we keep it: no slash at the end.
///
/// # Errors
/// What is wrong with it.
pub(super) fn url(text: &str) -> Result<String, &'static str> {
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') && !path.ends_with('/') {
            true => Ok(text.into()),
            false => Err("unix:// goes before the whole path of a socket"),
        };
    }
    let uri: Uri = text.parse().map_err(|_invalid| "it cannot be read")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("it begins with none of http://, https:// and unix://");
    }
    let authority = uri.authority().ok_or("it has no host")?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err("it has no host, or a user");
    }
    if authority.port_u16().is_none_or(|port| port == 0) {
        return Err("it has no port");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("something stands after the port");
    }
    Ok(text.trim_end_matches('/').into())
}
