//! Whether a reply is as expected: an object must have the fields that were named, with those values, and may have more; a
//! list must have as many elements; everything else must be equal. Where it is not, the first place and why.

use serde_json::Value;

/// The first difference, with its place in the reply; `None` where the reply is as expected.
pub fn difference(expected: &Value, actual: &Value) -> Option<String> {
    at("reply", expected, actual)
}

fn at(place: &str, expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => expected.iter().find_map(|(name, value)| {
            let place = format!("{place}.{name}");
            // Whoever wrote snake_case means the field all the same.
            match actual.get(name).or_else(|| actual.get(&camel(name))) {
                Some(found) => at(&place, value, found),
                None => {
                    let fields: Vec<&str> = actual.keys().map(String::as_str).collect();
                    Some(format!("{place} is not there; there are {}", fields.join(", ")))
                }
            }
        }),
        (Value::Array(expected), Value::Array(actual)) if expected.len() != actual.len() => {
            Some(format!("{place} has {} elements, expected are {}", actual.len(), expected.len()))
        }
        (Value::Array(expected), Value::Array(actual)) => {
            let mut pairs = expected.iter().zip(actual).enumerate();
            pairs.find_map(|(number, (expected, actual))| at(&format!("{place}.{number}"), expected, actual))
        }
        _ if equal(expected, actual) => None,
        _ => Some(format!("{place} is {actual}, expected is {expected}")),
    }
}

/// 64-bit integers are strings in protobuf's JSON; a number means the same.
fn equal(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Number(number), Value::String(text)) | (Value::String(text), Value::Number(number)) => {
            number.to_string() == *text
        }
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => expected == actual,
    }
}

/// What stands at a path, as `messages.0.id`.
pub fn find<'a>(path: &str, reply: &'a Value) -> Option<&'a Value> {
    path.split('.').try_fold(reply, |value, part| match value {
        Value::Object(fields) => fields.get(part).or_else(|| fields.get(&camel(part))),
        Value::Array(elements) => elements.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The JSON name of a field.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or_else(|| text.clone(), |first| format!("{text}{}{}", first.to_uppercase(), letters.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_fields_must_agree_and_others_do_not_matter() {
        let reply = json!({ "id": "u", "count": "12", "tags": ["a", { "k": 1, "l": 2 }], "lastSeen": 0 });
        for fits in [
            json!({}),
            json!({ "id": "u" }),
            json!({ "count": 12 }),
            json!({ "tags": ["a", { "k": 1.0 }] }),
            json!({ "last_seen": 0 }),
        ] {
            assert_eq!(difference(&fits, &reply), None, "{fits}");
        }
        for (not, place) in [
            (json!({ "id": "v" }), "reply.id is \"u\", expected is \"v\""),
            (json!({ "count": 13 }), "reply.count"),
            (json!({ "tags": ["a"] }), "reply.tags has 2 elements, expected are 1"),
            (json!({ "tags": ["a", { "k": 2 }] }), "reply.tags.1.k"),
            (json!({ "name": "" }), "reply.name is not there; there are count, id, lastSeen, tags"),
            (json!([]), "reply is"),
        ] {
            let found = difference(&not, &reply).unwrap_or_default();
            assert!(found.starts_with(place), "{not}: {found}");
        }
    }

    #[test]
    fn a_path_leads_through_fields_and_elements() {
        let reply = json!({ "userList": [{ "id": 7 }] });
        assert_eq!(find("userList.0.id", &reply), Some(&json!(7)));
        assert_eq!(find("user_list.0.id", &reply), Some(&json!(7)));
        for nowhere in ["", "userList.1", "userList.x", "userList.0.id.more"] {
            assert_eq!(find(nowhere, &reply), None, "{nowhere:?}");
        }
    }
}
