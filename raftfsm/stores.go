package raftfsm

import (
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
	b, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		// The freelist is rebuilt at open instead of being synced at each commit.
		BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: time.Second},
	})
	if err != nil {
		return nil, fmt.Errorf("open raft log %q: %w", path, err)
	}
	return b, nil
}

// store puts checksums and the poison latch between Raft and its backend. bbolt
// has no checksums over what it stores (law 6): every log entry gets one in its
// Extensions, every stable value at its end.
type store struct {
	back  backend
	latch *latch
}

var (
	_ raft.LogStore          = (*store)(nil)
	_ raft.StableStore       = (*store)(nil)
	_ raft.MonotonicLogStore = (*store)(nil)
)

const sumLen = 4

// guard runs one operation. bbolt maps its file: a page that cannot be read is
// a fault signal, and a damaged one a panic; both become errors here.
func (s *store) guard(op string, f func() error) error {
	id := s.latch.begin(op)
	defer s.latch.end(id)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var err error
	func() {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("%v", r)
			}
		}()
		err = f()
	}()
	return err
}

// must is guard for operations of which every error is terminal.
func (s *store) must(op string, f func() error) {
	err := s.guard(op, f)
	switch {
	case errors.Is(err, errBadSum):
		s.latch.fail(ConditionLogCorrupt, fmt.Errorf("%s: %w", op, err))
	case err != nil:
		s.latch.fail(ConditionStoreFailed, fmt.Errorf("%s: %w", op, err))
	}
}

var errBadSum = errors.New("checksum does not match")

// FirstIndex gives the index of the oldest entry, 0 when there is none.
func (s *store) FirstIndex() (index uint64, _ error) {
	s.must("read first raft log index", func() (err error) { index, err = s.back.FirstIndex(); return err })
	return index, nil
}

// LastIndex gives the index of the newest entry, 0 when there is none.
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

// StoreLogs appends entries. It returns no error: a failed write is terminal.
func (s *store) StoreLogs(logs []*raft.Log) error {
	summed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l // Raft keeps using its own
		c.Extensions = binary.BigEndian.AppendUint32(nil, logSum(l))
		summed[i] = &c
	}
	s.must("write raft log", func() error { return s.back.StoreLogs(summed) })
	return nil
}

// DeleteRange removes the entries from first to last, inclusive.
func (s *store) DeleteRange(first, last uint64) error {
	s.must("trim raft log", func() error { return s.back.DeleteRange(first, last) })
	return nil
}

// IsMonotonic makes Raft clear the log after it was given a snapshot, so that a
// hole in it is always damage.
func (s *store) IsMonotonic() bool { return true }

// Set stores a value with its sum.
func (s *store) Set(key, val []byte) error {
	b := append(append([]byte(nil), val...), stableSum(key, val)...)
	s.must(fmt.Sprintf("write raft %s", key), func() error { return s.back.Set(key, b) })
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
