use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::domain::api_key::{ApiKey, Tenant};
use crate::domain::sha256::sha256;
use crate::domain::time::Timestamp;
use crate::verify::test_credential::test_credential;

/// A kind of keys, and the size of the cache that is filled with them.
const CASES: [(&str, u64, u64); 4] = [
    // Each of these fits whole.
    ("small", 1 << 30, 40_000),
    ("owned", 1 << 30, 30_000),
    ("large", 1 << 30, 4_000),
    // Most of these are evicted.
    ("owned", 32 << 20, 60_000),
];

/// A key as the store reads it.
fn credential(kind: &str, number: u64) -> Credential {
    let id = |prefix: &str| format!("{prefix}_01M85RGW127J6FPZ{number:010}");
    let count = match kind {
        "small" => 1,
        "owned" => 3,
        _ => 40,
    };
    let scopes: Vec<String> = (0..count).map(|n| format!("transactions-{n}:write")).collect();
    let scopes = serde_json::to_string(&scopes).unwrap();
    let metadata = (0..count).map(|n| (format!("name-{n}"), format!("the {n}th value of \"{number}\"")));
    let metadata = serde_json::to_string(&metadata.collect::<std::collections::BTreeMap<_, _>>()).unwrap();
    let is_owned = kind != "small";
    let at = Timestamp::from_millis(1_795_530_177_404);
    let base = test_credential(1, i64::try_from(number).unwrap());
    let key = ApiKey {
        id: id("key"),
        organization_id: is_owned.then(|| id("org")),
        user_id: is_owned.then(|| id("user")),
        name: format!("Production key {number}"),
        start: "toll_a1B2".to_owned(),
        scopes: serde_json::from_str(&scopes).unwrap(),
        expires_at: Some(at),
        allowed_ips: is_owned.then(|| vec!["192.0.2.0/24".parse().unwrap()]),
        metadata: serde_json::from_str(&metadata).unwrap(),
        created_by: is_owned.then(|| id("key")),
        ..base.key
    };
    let organization = base.organization.filter(|_| is_owned);
    let organization = organization.map(|tenant| Tenant { name: "A customer".to_owned(), ..tenant });
    Credential { key, organization, ..base }
}

/// A thread that remembers records keeps them in memory after the shared cache has evicted them.
#[tokio::test]
async fn i10_records_that_threads_remember_stay_within_the_cache() {
    let max_bytes = 8 << 20;
    for (value_bytes, value_count, keys) in [(500, 50, 1_000), (500, 10, 3_000), (10, 1, 8_000)] {
        let load = move |hash: SecretHash| -> LoadFuture {
            let number = u64::from_ne_bytes(hash[..8].try_into().unwrap());
            let mut credential = credential("small", number);
            let pairs = (0..value_count).map(|index| (format!("m{index}"), "v".repeat(value_bytes)));
            credential.key.metadata = pairs.collect();
            Box::pin(async move { Ok(Some(credential)) })
        };
        let cache = KeyCache::new(max_bytes, Arc::default(), load);
        let mut hashes = Vec::new();
        for number in 0..keys {
            let mut hash = hash(number);
            hash[..8].copy_from_slice(&number.to_ne_bytes());
            let record = cache.get_record(&hash).await.unwrap().unwrap();
            cache.remember(&hash, &record);
            hashes.push(hash);
        }
        let remembered = hashes.iter().filter_map(|hash| cache.get_recent(hash));
        let weights: Vec<_> = remembered.map(|record| u64::from(weight_bytes(&record.credential))).collect();
        assert!(weights.iter().sum::<u64>() <= max_bytes / 16, "{weights:?}");
        match value_count {
            1 => assert!(!weights.is_empty()),
            50 => assert!(weights.is_empty(), "a long record was remembered"),
            _ => {}
        }
    }
}

fn hash(number: u64) -> SecretHash {
    sha256(&number.to_ne_bytes())
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    procfs::process::Process::myself().unwrap().stat().unwrap().rss * procfs::page_size()
}

/// Not a test of its own: the test below runs it in a process for each case, because it measures the memory of
/// the process.
#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "run by the other test, which reads its standard output"]
async fn a_process_that_fills_the_cache() {
    let case: usize = std::env::var("CASE").unwrap().parse().unwrap();
    let (kind, max_bytes, keys) = CASES[case];
    // The loader gets only the hash, so the number of the key is passed beside it.
    let next = Arc::new(AtomicU64::new(0));
    let number = next.clone();
    let load = move |_| -> LoadFuture {
        let number = number.load(Ordering::SeqCst);
        Box::pin(async move { Ok(Some(credential(kind, number))) })
    };
    let cache = KeyCache::new(max_bytes, Arc::default(), load);
    cache.get(&[0; 32]).await.unwrap();
    let before = resident_bytes();
    for number in 0..keys {
        next.store(number, Ordering::SeqCst);
        let credential = cache.get(&hash(number)).await.unwrap().unwrap();
        // As long as the longest that `http::verify` stores.
        let json = "x".repeat(max_shared_response_json_bytes(&credential));
        credential.memo.shared_response_json.get_or_init(|| json.into());
    }
    cache.0.records.run_pending_tasks();
    let taken = resident_bytes() - before;
    println!("measured {taken} {} {}", cache.0.records.weighted_size(), cache.0.records.entry_count());
}

#[cfg(target_os = "linux")]
#[test]
fn i10_cached_keys_use_no_more_memory_than_their_weight() {
    for (case, (kind, max_bytes, keys)) in CASES.into_iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "verify::cache::tests::a_process_that_fills_the_cache";
        child.args(["--ignored", "--exact", name, "--nocapture"]).env("CASE", case.to_string());
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let measured = text.lines().find_map(|line| line.split("measured ").nth(1));
        let measured = measured.unwrap_or_else(|| panic!("{text}{output:?}"));
        let numbers: Vec<u64> = measured.split(' ').map(|number| number.parse().unwrap()).collect();
        let [taken, weight, entries] = numbers[..] else { panic!("{measured}") };
        println!("{kind}: {} bytes each, weight {}", taken / entries, weight / entries);
        assert!(weight <= max_bytes, "{kind}: {measured}");
        if max_bytes == 1 << 30 {
            assert_eq!(entries, keys + 1, "{kind}: {measured}");
            assert!(taken <= weight, "{kind}: the weight is too low: {measured}");
            assert!(taken * 3 >= weight * 2, "{kind}: the weight is far too high: {measured}");
        } else {
            assert!(entries < keys / 2, "{kind}: {measured}");
            assert!(taken <= max_bytes, "{kind}: the cache takes more than its size: {measured}");
        }
    }
}
