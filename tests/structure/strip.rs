//! Source without what is no code of the product. Everything keeps its place: what is taken out becomes blanks.

/// Comments, strings and characters are blanks.
pub(crate) fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if starts_raw(bytes, at) => raw_end(bytes, at),
            b'\'' => character_end(text, at),
            _ => at,
        };
        if end == at {
            at += 1;
        } else {
            blank(&mut out, at, end);
            at = end;
        }
    }
    String::from_utf8(out).expect("whole characters are replaced")
}

fn blank(out: &mut [u8], from: usize, until: usize) {
    for byte in &mut out[from..until] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Comments nest.
fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    bytes.len().min(at + 1)
}

/// `r"`, `r#"`, `br"`, `cr##"`; not the end of a name, and not `r#type`.
fn starts_raw(bytes: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|place| bytes[place]);
    let in_name = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let prefixed = matches!(before(1), Some(b'b' | b'c')) && !in_name(before(2));
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (prefixed || !in_name(before(1))) && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let text = at + hashes + 2;
    let length = bytes[text..].windows(end.len()).position(|window| window == end);
    length.map_or(bytes.len(), |length| text + length + end.len())
}

/// A lifetime is none.
fn character_end(text: &str, at: usize) -> usize {
    let rest = &text[at + 1..];
    let Some(first) = rest.chars().next() else { return at };
    if first == '\\' {
        let skipped = 2 + rest[2..].find('\'').unwrap_or(0);
        return at + 1 + skipped + 1;
    }
    let length = first.len_utf8();
    if first != '\'' && rest[length..].starts_with('\'') { at + 1 + length + 1 } else { at }
}

/// Code without items that stand under `#[cfg(test)]`, `any(test, …)` or `#[cfg(doc)]`; and how many lines they have.
pub(crate) fn without_tests(code: &str) -> (String, usize) {
    let mut out = code.as_bytes().to_vec();
    let (mut at, mut lines) = (0, 0);
    while let Some(found) = code[at..].find("#[cfg(") {
        let begin = at + found;
        let attribute = closing(code.as_bytes(), begin + 1);
        at = attribute;
        if is_of_tests(&code[begin..attribute]) {
            let end = item_end(code.as_bytes(), attribute);
            lines += code[begin..end].matches('\n').count() + 1;
            blank(&mut out, begin, end);
            at = end;
        }
    }
    (String::from_utf8(out).expect("whole characters are replaced"), lines)
}

fn is_of_tests(attribute: &str) -> bool {
    let words: Vec<_> = attribute.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    (words.contains(&"test") || words.contains(&"doc")) && !words.contains(&"not")
}

/// Behind the bracket that closes the one at `at`.
pub(crate) fn closing(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    for (place, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    bytes.len()
}

/// Behind the item, statement, field or arm that begins at `at`, attributes first.
fn item_end(bytes: &[u8], mut at: usize) -> usize {
    const ITEMS: [&str; 15] = [
        "pub",
        "fn",
        "impl",
        "struct",
        "enum",
        "mod",
        "trait",
        "const",
        "static",
        "type",
        "async",
        "unsafe",
        "extern",
        "macro_rules",
        "use",
    ];
    let mut word = "";
    while at < bytes.len() {
        match bytes[at] {
            b' ' | b'\n' => at += 1,
            b'#' => at = closing(bytes, at + 1),
            _ => {
                let length =
                    bytes[at..].iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'_').count();
                word = std::str::from_utf8(&bytes[at..at + length]).expect("ASCII");
                break;
            }
        }
    }
    let is_item = ITEMS.contains(&word);
    let is_field = word == "pub" && !begins_item(bytes, at, &ITEMS);
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' => at = closing(bytes, at),
            b'{' if word == "use" || word == "let" => at = closing(bytes, at),
            b'{' => return closing(bytes, at),
            b';' => return at + 1,
            b',' if !is_item || is_field => return at + 1,
            b'}' => return at,
            _ => at += 1,
        }
    }
    at
}

/// Whether behind `pub` or `pub(…)` there is an item and not the name of a field.
fn begins_item(bytes: &[u8], at: usize, items: &[&str]) -> bool {
    let text = String::from_utf8_lossy(&bytes[at + 3..bytes.len().min(at + 80)]).into_owned();
    let text = text.trim_start();
    let text = if text.starts_with('(') { text.split_once(')').map_or("", |(_, rest)| rest) } else { text };
    items.contains(&text.split_whitespace().next().unwrap_or(""))
}
