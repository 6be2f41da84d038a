//! Ids, names, failures, page and resume tokens.

use proptest::prelude::*;

use super::*;

#[test]
fn names_keep_the_rule() {
    for good in ["a", "0", "web-1", "a--b", &"a".repeat(63)] {
        assert!(Name::try_from(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a_b", "ä", "a b", "a\n", &"a".repeat(64)] {
        assert!(Name::try_from(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn ids_sort_as_they_were_made_and_only_one_text_form_is_read() {
    let ids: Vec<Id> = (0..1000).map(|_| Id::new()).collect();
    assert!(ids.is_sorted());
    let upper = ids[0].as_str().to_uppercase();
    assert!(Id::parse("vm", &upper).is_err());
    assert_eq!(Id::parse("vm", ids[0].as_str()).unwrap(), ids[0]);
}

#[test]
fn a_failure_says_all_in_one_line() {
    let failure = Failure::invalid("cpus", "x\ny", "is not a number").under("vm.spec");
    assert_eq!(failure.message(), r#"vm.spec.cpus: "x\ny" is not a number"#);
    assert_eq!(failure.fields()[0].field, "vm.spec.cpus");
    let failure = Failure::internal("Cannot write the log", std::io::Error::other("first\nsecond"));
    assert_eq!(failure.chain(), "Cannot write the log: first second");
}

#[test]
fn a_long_value_is_cut_in_messages() {
    assert!(Failure::invalid("name", "x".repeat(100_000), "is too long").message().len() < 200);
}

proptest! {
    #[test]
    fn pages_cover_a_list_once_in_order(length in 0usize..200, size in 1i32..60) {
        let all: Vec<usize> = (0..length).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = Page::parse(size, &token, "list").unwrap();
            let from = page.after().map_or(0, |key| key.parse::<usize>().unwrap() + 1);
            let read: Vec<usize> = all[from..].iter().copied().take(page.size() + 1).collect();
            let cut = page.cut(read, usize::to_string);
            prop_assert!(cut.items.len() <= page.size());
            seen.extend(cut.items);
            if cut.next.is_empty() { break; }
            token = cut.next;
        }
        prop_assert_eq!(seen, all);
    }

    #[test]
    fn no_text_breaks_a_token_reader(text in ".{0,80}") {
        let _ = Page::parse(0, &text, "list");
        let _ = ResumeToken::parse("resume_token", &text);
    }

    #[test]
    fn resume_tokens_come_back(sequence: u64, epoch in "[-0-9a-f]{36}") {
        let token = ResumeToken { epoch, sequence };
        prop_assert_eq!(ResumeToken::parse("t", &token.encode()).unwrap(), token);
    }

    #[test]
    fn times_keep_their_microseconds(micros in -1_000_000_000_000_000i64..4_000_000_000_000_000) {
        let stamp = prost_types::Timestamp::from(Time::from_micros(micros));
        prop_assert_eq!(stamp.seconds * 1_000_000 + i64::from(stamp.nanos) / 1000, micros);
    }
}

#[test]
fn a_token_of_another_list_is_refused() {
    let next = Page::parse(1, "", "volumes?pool=a").unwrap().cut(vec![1, 2], i32::to_string).next;
    assert!(Page::parse(1, &next, "volumes?pool=a").is_ok());
    let failure = Page::parse(1, &next, "volumes?pool=b").unwrap_err();
    assert_eq!((failure.kind(), failure.fields()[0].field.as_str()), (FailureKind::InvalidArgument, "page_token"));
    assert!(Page::parse(-1, "", "volumes").is_err());
    assert_eq!(Page::parse(9999, "", "volumes").unwrap().size(), Page::MAX);
}
