package raftfsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// backend is what keeps log, term and vote: one bbolt file.
type backend interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

// logName is the bbolt file in Config.Dir.
const logName = "raft.db"

func openBackend(dir string) (backend, error) {
	path := filepath.Join(dir, logName)
	var b *raftboltdb.BoltStore
	err := caught(func() (err error) {
		b, err = raftboltdb.New(boltOptions(path))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open raft log %q: %w", path, err)
	}
	return b, nil
}

func boltOptions(path string) raftboltdb.Options {
	return raftboltdb.Options{
		Path: path,
		// The list of free pages is kept in the file: without one bbolt reads all pages
		// in a goroutine of its own, when it opens the file and when a write failed, and
		// what it runs into there ends the process.
		BoltOptions: &bbolt.Options{FreelistType: bbolt.FreelistMapType, Timeout: time.Second},
	}
}

// errFault says that bbolt ran into what it did not expect.
var errFault = errors.New("the file is not what it was")

// closeBackend closes a log that ended with cause, if any. After a fault bbolt's
// locks are held for ever, and to close it would wait for them: the process's end
// closes it.
func closeBackend(b backend, cause error) error {
	if errors.Is(cause, errFault) {
		return nil
	}
	return caught(b.Close)
}

// caught runs what reads bbolt's file through its mapping: a page that cannot be
// read is a fault signal, and a damaged one a panic; both become errors here. They
// do in this goroutine only.
func caught(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errFault, r)
		}
	}()
	return f()
}

// The names of Raft's stable values.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteFor  = "LastVoteCand"
)

// store puts checksums and the poison latch between Raft and its backend. bbolt
// has no checksums over what it stores (law 6): every log entry gets one in its
// Extensions, every stable value at its end. What it promises by a write is
// remembered outside before the write is answered.
type store struct {
	back  backend
	latch *latch

	mem      *memory // nil: nothing is promised
	snaps    raft.SnapshotStore
	self     raft.ServerID
	abstains *abstention // nil: it votes
	voteTerm uint64      // written, and the vote is not yet. Raft's main goroutine only
}

var (
	_ raft.LogStore          = (*store)(nil)
	_ raft.StableStore       = (*store)(nil)
	_ raft.MonotonicLogStore = (*store)(nil)
)

const sumLen = 4

// guard runs one operation.
func (s *store) guard(op string, f func() error) error {
	return s.latch.during(op, logName, func() error { return caught(f) })
}

// must is guard for operations of which every error is terminal, but for want of room.
// f may be called again.
func (s *store) must(op string, f func() error) {
	try := func() error { return s.guard(op, f) }
	err := try()
	if noRoom(err) {
		err = s.latch.room.again(err, try)
	}
	switch {
	case errors.Is(err, errBadSum):
		s.latch.fail(ConditionLogCorrupt, fmt.Errorf("%s: %w", op, err))
	case err != nil:
		s.latch.fail(ConditionStoreFailed, fmt.Errorf("%s: %w", op, err))
	}
}

var errBadSum = errors.New("checksum does not match")

// FirstIndex returns the index of the oldest entry, 0 when there is none.
func (s *store) FirstIndex() (index uint64, _ error) {
	s.must("read first raft log index", func() (err error) { index, err = s.back.FirstIndex(); return err })
	return index, nil
}

// LastIndex returns the index of the newest entry, 0 when there is none.
func (s *store) LastIndex() (index uint64, _ error) {
	s.must("read last raft log index", func() (err error) { index, err = s.back.LastIndex(); return err })
	return index, nil
}

// GetLog reads an entry; its one error is raft.ErrLogNotFound.
func (s *store) GetLog(index uint64, log *raft.Log) error {
	missing := false
	s.must(fmt.Sprintf("read raft log entry %d", index), func() error {
		err := s.back.GetLog(index, log)
		if errors.Is(err, raft.ErrLogNotFound) {
			missing = true
			return s.checkHole(index)
		}
		if err == nil && (log.Index != index || len(log.Extensions) != sumLen || binary.BigEndian.Uint32(log.Extensions) != logSum(log)) {
			err = errBadSum
		}
		log.Extensions = nil
		return err
	})
	if missing {
		return raft.ErrLogNotFound
	}
	return nil
}

// checkHole tells an entry that was compacted, or does not exist yet, from one
// that was lost: IsMonotonic promises that there are no gaps.
func (s *store) checkHole(index uint64) error {
	last, err := s.back.LastIndex()
	if err != nil {
		return err
	}
	// The first index is read last: compaction may move it past the entry.
	first, err := s.back.FirstIndex()
	if err == nil && first != 0 && first <= index && index <= last {
		err = fmt.Errorf("entry is missing between %d and %d: %w", first, last, errBadSum)
	}
	return err
}

// StoreLog appends an entry.
func (s *store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries. It returns no error: a failed write is terminal, and one
// that finds no room waits.
func (s *store) StoreLogs(logs []*raft.Log) error {
	summed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l // Raft keeps using its own
		c.Extensions = binary.BigEndian.AppendUint32(nil, logSum(l))
		summed[i] = &c
	}
	s.must("write raft log", func() error {
		if err := s.back.StoreLogs(summed); err != nil || s.mem == nil || len(logs) == 0 {
			return err
		}
		return s.mem.appended(s.self, logs)
	})
	return nil
}

// DeleteRange removes the entries from first to last, inclusive.
func (s *store) DeleteRange(first, last uint64) error {
	s.must("trim raft log", func() error {
		if err := s.cut(first, last); err != nil {
			return err
		}
		return s.back.DeleteRange(first, last)
	})
	return nil
}

// cut remembers where the log ends when its end is removed: before first, because a
// leader has other entries there, or with the snapshot that replaces all of it.
func (s *store) cut(first, last uint64) error {
	if s.mem == nil || s.mem.get().Last > last {
		return nil
	}
	begin, err := s.back.FirstIndex()
	if err != nil {
		return err
	}
	if first <= begin {
		list, err := s.snaps.List()
		if err != nil || len(list) == 0 {
			return err
		}
		return s.mem.change(func(p *promises) {
			p.Last, p.LastTerm, p.Sole = list[0].Index, list[0].Term, soleVoter(s.self, list[0].Configuration)
		})
	}
	var end raft.Log
	if err := s.back.GetLog(first-1, &end); err != nil {
		return err
	}
	return s.mem.change(func(p *promises) { p.Last, p.LastTerm, p.Sole = end.Index, end.Term, false })
}

// IsMonotonic makes Raft clear the log after it was given a snapshot, so that a
// hole in it is always damage.
func (s *store) IsMonotonic() bool { return true }

// Set stores a value with its sum. Its one error is that a server which abstains
// votes for itself: Raft then waits for the next election.
func (s *store) Set(key, val []byte) error {
	if s.abstains.holds() && (string(key) == keyVoteTerm || string(key) == keyVoteFor) {
		return errAbstains
	}
	b := append(append([]byte(nil), val...), stableSum(key, val)...)
	s.must(fmt.Sprintf("write raft %s", key), func() error {
		if err := s.back.Set(key, b); err != nil || s.mem == nil {
			return err
		}
		return s.promise(string(key), val)
	})
	return nil
}

// promise remembers a term or a vote that Raft's file has now. A vote is written in
// two parts, its term first, and remembered in one.
func (s *store) promise(key string, val []byte) error {
	switch key {
	case keyTerm:
		return s.mem.change(func(p *promises) { p.Term = binary.BigEndian.Uint64(val) })
	case keyVoteTerm:
		s.voteTerm = binary.BigEndian.Uint64(val)
	case keyVoteFor:
		return s.mem.change(func(p *promises) { p.VoteTerm, p.VoteFor = s.voteTerm, bytes.Clone(val) })
	}
	return nil
}

// Get reads a value. A key that is not there is an error that reads "not found":
// Raft compares the text.
func (s *store) Get(key []byte) (val []byte, notFound error) {
	s.must(fmt.Sprintf("read raft %s", key), func() error {
		b, err := s.back.Get(key)
		if err != nil && err.Error() == raftboltdb.ErrKeyNotFound.Error() {
			notFound = err
			return nil
		}
		if err != nil {
			return err
		}
		cut := len(b) - sumLen
		if cut < 0 || string(b[cut:]) != string(stableSum(key, b[:cut])) {
			return errBadSum
		}
		val = b[:cut]
		return nil
	})
	return val, notFound
}

// SetUint64 stores a number with its sum.
func (s *store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 reads a number.
func (s *store) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		s.latch.fail(ConditionLogCorrupt, fmt.Errorf("read raft %s: %d bytes, want 8", key, len(b)))
	}
	return binary.BigEndian.Uint64(b), nil
}

// number reads a number, 0 when it is not there.
func (s *store) number(key string) uint64 {
	v, err := s.GetUint64([]byte(key))
	if err != nil {
		return 0
	}
	return v
}

func logSum(l *raft.Log) uint32 {
	head := binary.BigEndian.AppendUint64(nil, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(head, table), table, l.Data)
}

func stableSum(key, val []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	return binary.BigEndian.AppendUint32(nil, crc32.Update(crc32.Checksum(key, table), table, val))
}
