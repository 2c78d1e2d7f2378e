//! What a grant does to a host's file: one line comes, or goes, and nothing else.

use toehold_core::{PublicKey, Source};
use toehold_keygen::authorized_keys::{Entry, KeyLine};
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, Line};

/// Which lines are the grant's: those that hold its key and whose comment names it.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) public_key: PublicKey,
    pub(super) marker: String,
}

impl Own {
    fn names_it(&self, line: &KeyLine<'_>) -> bool {
        line.comment().strip_prefix(self.marker.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b' ' | b'\t', ..]))
    }

    fn is(&self, entry: &Entry<'_>) -> bool {
        entry.key().is_some_and(|line| self.names_it(&line) && line.is(&self.public_key))
    }

    pub(super) fn in_document(&self, document: &AuthorizedKeys) -> bool {
        document.entries().any(|entry| self.is(&entry))
    }

    fn others<'a>(&'a self, document: &'a AuthorizedKeys) -> impl Iterator<Item = &'a [u8]> {
        document.entries().filter(|entry| !self.is(entry)).map(|entry| entry.text())
    }
}

/// Puts the grant's line at the end of `authorized_keys`, or leaves the one of an earlier try that is there.
///
/// Returns how many other lines hold the key.
///
/// # Errors
/// Where the edit would touch any other line: a fault of this crate.
pub(super) fn put(file: KeyFile, document: &mut AuthorizedKeys, own: &Own, line: &Line) -> Result<usize, Source> {
    let before = document.clone();
    let others = document.find(&own.public_key).filter(|entry| !own.is(entry)).count();
    if file == KeyFile::AuthorizedKeys && !own.in_document(document) {
        document.push(line);
    }
    guard(&before, document, own)?;
    Ok(others)
}

/// Takes the grant's line out.
///
/// # Errors
/// As [`put`].
pub(super) fn take(document: &mut AuthorizedKeys, own: &Own) -> Result<(), Source> {
    let before = document.clone();
    document.remove_where(&own.public_key, |line| own.names_it(line));
    guard(&before, document, own)
}

/// What must hold of every write for a grant: all other lines are there as they were, in their order. So a grant never
/// touches a master line, another grant, or what is somebody else's.
fn guard(before: &AuthorizedKeys, after: &AuthorizedKeys, own: &Own) -> Result<(), Source> {
    if own.others(before).eq(own.others(after)) {
        Ok(())
    } else {
        Err("the edit would change lines that are not the grant's; nothing was written".into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use toehold_core::testing::sample_public_key;
    use toehold_keygen::{GRANT_COMMENT_PREFIX, Options};

    use super::*;

    fn own(name: &str, id: u8) -> Own {
        Own { public_key: sample_public_key("ssh-ed25519", name), marker: format!("{GRANT_COMMENT_PREFIX}{id:032x}") }
    }

    fn line(own: &Own) -> Line {
        let end = "20261123020000Z".parse().unwrap();
        Line::new(Options::new().expiry_time(&end), own.public_key.clone(), &own.marker).unwrap()
    }

    #[test]
    fn foreign_bytes_the_guard_refuses_an_edit_of_any_other_line() {
        let (ours, theirs) = (own("bob", 1), own("carol", 2));
        let text = format!("{} for good\n{}\n", ours.public_key, line(&theirs));
        let before = AuthorizedKeys::parse(text.clone().into_bytes());
        for changed in [
            text.replace("for good", "for goo"),
            text.replace("20261123020000Z", "20361123020000Z"),
            text.lines().next().unwrap().to_owned(),
            text.lines().rev().collect::<Vec<_>>().join("\n"),
            String::new(),
        ] {
            let after = AuthorizedKeys::parse(changed.clone().into_bytes());
            assert!(guard(&before, &after, &ours).is_err(), "{changed}");
        }
        let with_ours = AuthorizedKeys::parse(format!("{text}{}\n", line(&ours)).into_bytes());
        assert!(guard(&before, &with_ours, &ours).is_ok() && guard(&with_ours, &before, &ours).is_ok());
    }

    #[test]
    fn a_line_is_a_grant_s_only_with_its_key_and_its_whole_name() {
        let ours = own("bob", 1);
        let mut document = AuthorizedKeys::parse(
            format!(
                "{} {}0\n{} x{}\n{} {}\n#{}\n",
                ours.public_key,
                ours.marker,
                ours.public_key,
                ours.marker,
                own("mallory", 1).public_key,
                ours.marker,
                line(&ours),
            )
            .into_bytes(),
        );
        let before = document.clone();
        take(&mut document, &ours).unwrap();
        assert_eq!(document, before);
    }

    proptest! {
        /// Grants of two keys come and go in any order, over whatever is there: what stays is what was there.
        #[test]
        fn foreign_bytes_whatever_comes_and_goes(
            foreign in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], 0..120),
            steps in prop::collection::vec((0..4_u8, any::<bool>()), 0..12),
        ) {
            let grants = [own("bob", 0), own("bob", 1), own("carol", 2), own("carol", 3)];
            let mut document = AuthorizedKeys::parse(foreign.clone());
            for (which, come) in steps {
                let grant = &grants[usize::from(which)];
                if come {
                    put(KeyFile::AuthorizedKeys, &mut document, grant, &line(grant)).unwrap();
                    prop_assert!(grant.in_document(&document));
                } else {
                    take(&mut document, grant).unwrap();
                    prop_assert!(!grant.in_document(&document));
                }
            }
            for grant in &grants {
                take(&mut document, grant).unwrap();
            }
            prop_assert_eq!(document.into_bytes(), foreign);
        }
    }
}
