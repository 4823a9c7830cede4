//! A store stays within its bounds: of the disk, of memory, and of the time that one call takes.

use mqtt_core::store::{Options, Reader, Store, StoreError, Sync};

use crate::disk::Simulated;
use crate::{end_front, message};

fn total(disk: &Simulated) -> usize {
    disk.sizes().iter().map(|(_, size)| size).sum()
}

/// A client that only receives keeps identifiers and never messages.
#[test]
fn small_records_alone_do_not_pile_up() {
    for sync in [Sync::Process, Sync::Power] {
        let disk = Simulated::new(1);
        let options = Options {
            sync,
            segment_size: 20_000,
            ..Options::default()
        };
        let (mut store, _) = Store::open(disk.clone(), options.clone()).unwrap();
        store.note(b"key", b"value");
        for round in 0..20_000u32 {
            let id = (round % 100) as u16 + 1;
            store.received(id);
            store.answered(id);
            store.flush().unwrap();
            if round % 10 == 0
                && let Some(job) = store.sync()
            {
                let result = job.run();
                store.synced(result).unwrap();
            }
        }
        store.received(7);
        store.flush().unwrap();
        assert!(total(&disk) < 100_000, "{:?}", disk.sizes());
        let (store, _) = Store::open(disk, options).unwrap();
        assert_eq!(store.all_received().collect::<Vec<_>>(), [7]);
        assert_eq!(store.notes().count(), 1);
    }
}

/// What was given back can be used again, however often the store has been full.
#[test]
fn a_store_with_a_limit_of_bytes_can_be_full_again_and_again() {
    for max_bytes in [5_000, 20_000, 100_000, 1_000_000] {
        let disk = Simulated::new(1);
        let options = Options {
            max_bytes,
            ..Options::default()
        };
        let (mut store, _) = Store::open(disk.clone(), options).unwrap();
        for round in 0..20 {
            let mut kept = 0;
            loop {
                match store.keep(&message(&[7; 100]), None) {
                    Ok(_) => kept += 1,
                    Err(StoreError::Full) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(
                kept as u64 > max_bytes / 400,
                "{kept} in round {round} with {max_bytes}"
            );
            assert!(total(&disk) as u64 <= max_bytes + 1000);
            for _ in 0..kept {
                assert!(store.front().unwrap().is_some());
                store.send_front(1);
                store.flush().unwrap();
                store.done(1);
                store.flush().unwrap();
            }
            assert_eq!(store.count(), 0);
        }
    }
}

/// A message under way that nobody answers does not take the place of many.
#[test]
fn a_message_that_is_stuck_leaves_room_for_others() {
    let disk = Simulated::new(1);
    let options = Options {
        max_bytes: 50_000,
        ..Options::default()
    };
    let (mut store, _) = Store::open(disk.clone(), options).unwrap();
    store.keep(&message(&[1; 100]), Some(9)).unwrap();
    for _ in 0..5000 {
        store.keep(&message(&[2; 100]), Some(1)).unwrap();
        store.done(1);
        store.flush().unwrap();
    }
    let exchanges = store.exchanges();
    assert_eq!(exchanges.len(), 1);
    let packet = store.read(&mut Reader::default(), &exchanges[0].1, |message| {
        message.packet.to_vec()
    });
    assert_eq!(packet.unwrap(), [1; 100]);
}

/// Nothing has to give way for a message that would not fit into an empty store.
#[test]
fn a_message_that_never_fits_is_told_from_one_that_does_not_fit_now() {
    let disk = Simulated::new(1);
    let options = Options {
        max_bytes: 20_000,
        ..Options::default()
    };
    let (mut store, _) = Store::open(disk, options).unwrap();
    let error = store.keep(&message(&[7; 30_000]), None).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge), "{error}");
    assert_eq!(
        error.to_string(),
        "the message is larger than the store may be"
    );
    store.keep(&message(&[7; 10_000]), None).unwrap();
    let error = store.keep(&message(&[7; 15_000]), None).unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error}");
}

/// Emptying a store takes room too: it has been put aside.
#[test]
fn a_full_disk_can_be_drained() {
    for size in [10, 100, 3000] {
        for (segment_size, sync) in [
            (20_000, Sync::Process),
            (200_000, Sync::Process),
            (4 << 20, Sync::Process),
            (4 << 20, Sync::Power),
        ] {
            let disk = Simulated::new(1);
            disk.reserves();
            let options = Options {
                segment_size,
                sync,
                ..Options::default()
            };
            let (mut store, _) = Store::open(disk.clone(), options.clone()).unwrap();
            disk.has_room(Some(3_000_000));
            let packet = vec![7; size];
            let mut kept = 0u64;
            while store.keep(&message(&packet), None).is_ok() {
                kept += 1;
            }
            assert!(kept > 300, "{kept} of {size}");
            // Another process does the rest.
            drop(store);
            let (mut store, _) = Store::open(disk.clone(), options.clone()).unwrap();
            // Others take the room that is left.
            disk.has_room(Some(disk.taken()));
            for sequence in 0..kept {
                assert_eq!(store.front().unwrap().unwrap().sequence, sequence);
                end_front(&mut store);
            }
            assert_eq!(store.count(), 0);
            if sync == Sync::Power && store.keep(&message(&packet), None).is_err() {
                let result = store.sync().expect("something to sync").run();
                store.synced(result).unwrap();
            }
            store.keep(&message(&packet), None).unwrap();
        }
    }
}

/// A disk that is filled to the last byte, again and again, by a store with a single segment.
#[test]
fn an_empty_store_has_room_on_a_full_disk() {
    for (sync, size) in [
        (Sync::Process, 100),
        (Sync::Process, 3000),
        (Sync::Power, 100),
        (Sync::Power, 3000),
    ] {
        let disk = Simulated::new(1);
        disk.reserves();
        let options = Options {
            sync,
            ..Options::default()
        };
        let (mut store, _) = Store::open(disk.clone(), options).unwrap();
        disk.has_room(Some(400_000));
        let packet = vec![7; size];
        for _ in 0..20 {
            if let Err(error) = store.keep(&message(&packet), None) {
                let Some(job) = store.sync() else {
                    panic!("{sync:?}, {size} bytes: {error}, and no sync gives room back");
                };
                store.synced(job.run()).unwrap();
                store.keep(&message(&packet), None).unwrap();
            }
            while store.keep(&message(&packet), None).is_ok() {}
            while store.front().unwrap().is_some() {
                end_front(&mut store);
            }
            assert_eq!(store.count(), 0);
        }
    }
}

/// A message that was dropped by each record would make a full disk fuller.
#[test]
fn the_pages_of_a_list_are_bounded() {
    let disk = Simulated::new(1);
    let (mut store, _) = Store::open(disk, Options::default()).unwrap();
    for _ in 0..40 {
        store.keep(&message(&[7; 500_000]), None).unwrap();
    }
    let (mut from, mut pages, mut all) = (None, 0, 0);
    loop {
        let (mut bytes, mut count) = (0, 0);
        let next = store
            .list(from, 64, |_, message| {
                bytes += message.packet.len();
                count += 1;
            })
            .unwrap();
        assert!(bytes <= 2_000_000, "{bytes} at once");
        (pages, all) = (pages + 1, all + count);
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(all, 40);
    assert!(pages > 9);
}

/// Messages under way are many when a client comes back after a long time, and all are in memory then.
#[test]
fn messages_under_way_are_read_in_large_pieces() {
    let disk = Simulated::new(1);
    let (mut store, _) = Store::open(disk.clone(), Options::default()).unwrap();
    for id in 1..=u16::MAX {
        store.keep(&message(&[7; 100]), Some(id)).unwrap();
    }
    let pieces = total(&disk) / (256 << 10) + 10;
    let before = disk.reads();
    let mut reader = Reader::default();
    for (_, exchange) in store.exchanges() {
        let read = store.read(&mut reader, &exchange, |message| message.packet.to_vec());
        assert_eq!(read.unwrap(), [7; 100]);
    }
    let reads = disk.reads() - before;
    assert!(reads < pieces, "{reads} reads for {pieces} pieces");

    // The first segment goes when most of it is done with: the others move, in one call.
    let before = disk.reads();
    for id in (1..=u16::MAX).filter(|id| id % 8 > 0) {
        store.done(id);
        store.flush().unwrap();
    }
    store.keep(&message(&[8; 4 << 20]), None).unwrap();
    let reads = disk.reads() - before;
    assert!(reads < pieces, "{reads} reads for {pieces} pieces");
    assert!(disk.sizes()[0].0 > 1, "{:?}", disk.sizes());
    for (_, exchange) in store.exchanges() {
        let read = store.read(&mut reader, &exchange, |message| message.packet.to_vec());
        assert_eq!(read.unwrap(), [7; 100]);
    }
}

/// A process may not open many files.
#[test]
fn a_large_store_is_opened_with_few_files() {
    for sync in [Sync::Process, Sync::Power] {
        let disk = Simulated::new(1);
        let options = Options {
            sync,
            segment_size: 10_000,
            ..Options::default()
        };
        let (mut store, _) = Store::open(disk.clone(), options.clone()).unwrap();
        for _ in 0..10_000 {
            store.keep(&message(&[7; 100]), None).unwrap();
            store.flush().unwrap();
            if let Some(job) = store.sync() {
                let result = job.run();
                store.synced(result).unwrap();
            }
        }
        drop(store);
        assert!(disk.sizes().len() > 100);
        let (store, _) = Store::open(disk.clone(), options).unwrap();
        assert_eq!(store.waiting(), 10_000);
        assert!(disk.most_open() < 20, "{} files", disk.most_open());
    }
}
