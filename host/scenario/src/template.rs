//! Variables in requests and expectations. A text that is `$name` alone becomes the variable's value, whatever it is;
//! `{{name}}` inside a text becomes its words. `$$` at the beginning of a text stands for one `$`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Values by name.
pub type Variables = BTreeMap<String, Value>;

/// Whether this can be a variable's name.
pub fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// The variables that a value uses.
pub fn uses(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Nothing is replaced: each name asked for is noted.
    let _ = each_text(value, &mut |text| {
        replace(text, &mut |name| {
            found.insert(name.to_owned());
            Some(Value::Null)
        })
    });
    found
}

/// The value with its variables replaced.
///
/// # Errors
/// The name of a variable that there is not.
pub fn fill(value: &Value, variables: &Variables) -> Result<Value, String> {
    each_text(value, &mut |text| replace(text, &mut |name| variables.get(name).cloned()))
}

fn each_text(value: &Value, with: &mut dyn FnMut(&str) -> Result<Value, String>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => with(text)?,
        Value::Array(elements) => {
            Value::Array(elements.iter().map(|element| each_text(element, with)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| Ok((name.clone(), each_text(value, with)?));
            Value::Object(fields.iter().map(field).collect::<Result<_, String>>()?)
        }
        plain => plain.clone(),
    })
}

fn replace(text: &str, value_of: &mut dyn FnMut(&str) -> Option<Value>) -> Result<Value, String> {
    if let Some(rest) = text.strip_prefix("$$") {
        return Ok(Value::String(format!("${rest}")));
    }
    let missing = |name: &str| format!("there is no variable {name:?} here; `save` makes one");
    if let Some(name) = text.strip_prefix('$').filter(|name| is_name(name)) {
        return value_of(name).ok_or_else(|| missing(name));
    }
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, behind)) = after.split_once("}}") else { break };
        let name = name.trim();
        let value = value_of(name).ok_or_else(|| missing(name))?;
        done.push_str(before);
        match value {
            Value::String(words) => done.push_str(&words),
            other => done.push_str(&other.to_string()),
        }
        rest = behind;
    }
    done.push_str(rest);
    Ok(Value::String(done))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_keep_their_kind_alone_and_become_words_inside_a_text() {
        let variables = Variables::from([("n".to_owned(), json!(7)), ("who".to_owned(), json!("ada"))]);
        let filled = fill(&json!({ "a": "$n", "b": ["{{who}} has {{ n }}", "$$n", "$5", "{{open"] }), &variables);
        assert_eq!(filled, Ok(json!({ "a": 7, "b": ["ada has 7", "$n", "$5", "{{open"] })));
        assert!(fill(&json!("$other"), &variables).unwrap_err().contains("\"other\""));
        assert!(fill(&json!("a {{other}}"), &variables).is_err());
    }

    #[test]
    fn the_names_used_are_found_wherever_they_stand() {
        let value = json!({ "a": "$n", "b": [{ "c": "{{x}}{{ y }}" }, 3, "$$z"] });
        assert_eq!(uses(&value), ["n", "x", "y"].map(str::to_owned).into());
    }
}
