package raftfsm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"mailnode/storage/disk"
)

// memoryName is the file in Config.Memory.Dir with what this server has promised.
const memoryName = "promises"

// promises are what a server must never forget, however often its Raft files are
// emptied, or an older copy of them is put back: its vote, and how far it has
// acknowledged the log. A server that has forgotten either votes for a leader that
// lacks what was committed, and ends that are over come true again (law 4).
type promises struct {
	ServerID string `json:"server_id"`
	Term     uint64 `json:"term"`      // the highest that it has known
	VoteTerm uint64 `json:"vote_term"` // the last in which it voted
	VoteFor  []byte `json:"vote_for"`  // and for whom
	Last     uint64 `json:"last"`      // the end of the log that it has acknowledged
	LastTerm uint64 `json:"last_term"` // the term of that entry
	// Sole is whether the newest configuration in its log has one voter, itself: then
	// nobody else can have decided anything.
	Sole bool `json:"sole"`
	// Owes is the end of the log that it had before it lost it; 0: it has lost nothing.
	// Until a leader has filled it again it has no part in votes.
	Owes uint64 `json:"owes"`
}

// memory keeps the promises outside of Raft's folder. Each is durable there after
// it is in Raft's own file and before it is told to anyone: so a crash never leaves
// a memory of more than Raft's files have, and what lacks something that is
// remembered is not what this server wrote last.
//
// The file has two records that are written in turn, each with its number and its
// checksum: of one that is torn the other is left.
type memory struct {
	file  *os.File // locked while it is open: one process has the folder
	known bool     // it had a record when it was opened

	mu  sync.Mutex // guards what follows
	seq uint64     // of the newest record
	now promises
}

const (
	memoryRecordLen = 4096
	memoryHeadLen   = 16 // length, checksum, number
)

// openMemory opens or makes the file.
func openMemory(dir string) (*memory, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, memoryName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	m := &memory{file: f}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: another process runs this node: %w", f.Name(), err), f.Close())
	}
	for i := range 2 {
		seq, p, err := readMemory(f, i)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if p != nil && seq > m.seq {
			m.seq, m.now, m.known = seq, *p, true
		}
	}
	if !m.known { // its name, and that of its folder, become durable
		err = errors.Join(disk.SyncDir(vfs.Default, dir), disk.SyncDir(vfs.Default, filepath.Dir(dir)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// readMemory reads one of the two records, nil when it is not whole.
func readMemory(f *os.File, i int) (seq uint64, p *promises, err error) {
	b := make([]byte, memoryRecordLen)
	if _, err := f.ReadAt(b, int64(i)*memoryRecordLen); errors.Is(err, io.EOF) {
		return 0, nil, nil
	} else if err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(b)
	if n > memoryRecordLen-memoryHeadLen || binary.BigEndian.Uint32(b[4:]) != memorySum(b[8:memoryHeadLen+n]) {
		return 0, nil, nil
	}
	p = &promises{}
	if err := json.Unmarshal(b[memoryHeadLen:memoryHeadLen+n], p); err != nil {
		return 0, nil, nil // a checksum over nonsense
	}
	return binary.BigEndian.Uint64(b[8:]), p, nil
}

func memorySum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// get returns what is remembered.
func (m *memory) get() promises {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// change alters what is remembered and makes it durable.
func (m *memory) change(f func(*promises)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.now
	f(&next)
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if len(body) > memoryRecordLen-memoryHeadLen {
		return fmt.Errorf("remember %d bytes: a record has %d", len(body), memoryRecordLen-memoryHeadLen)
	}
	b := make([]byte, memoryRecordLen)
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint64(b[8:], m.seq+1)
	copy(b[memoryHeadLen:], body)
	binary.BigEndian.PutUint32(b[4:], memorySum(b[8:memoryHeadLen+len(body)]))
	if _, err := m.file.WriteAt(b, int64((m.seq+1)%2)*memoryRecordLen); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return err
	}
	m.seq, m.now = m.seq+1, next
	return nil
}

// appended remembers entries that Raft's log ends with now.
func (m *memory) appended(self raft.ServerID, logs []*raft.Log) error {
	return m.change(func(p *promises) {
		for _, l := range logs {
			if l.Type == raft.LogConfiguration {
				p.Sole = soleVoter(self, raft.DecodeConfiguration(l.Data))
			}
		}
		end := logs[len(logs)-1]
		p.Last, p.LastTerm = end.Index, end.Term
	})
}

// soleVoter reports whether nobody but self has a vote.
func soleVoter(self raft.ServerID, c raft.Configuration) bool {
	voters, mine := 0, false
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			mine = mine || s.ID == self
		}
	}
	return voters == 1 && mine
}

// lacks returns what a log with this term, vote and end does not have of what is
// remembered; "": nothing. termAt returns the term of an entry of it, 0 when the log
// begins behind the entry.
func (p promises) lacks(had promises, termAt func(index uint64) uint64) string {
	switch {
	case had.Term < p.Term:
		return fmt.Sprintf("they know term %d, and this server has known term %d", had.Term, p.Term)
	case had.VoteTerm < p.VoteTerm:
		return fmt.Sprintf("they have a vote in term %d, and this server has voted in term %d", had.VoteTerm, p.VoteTerm)
	case had.VoteTerm == p.VoteTerm && !bytes.Equal(had.VoteFor, p.VoteFor):
		return fmt.Sprintf("their vote in term %d is another one", p.VoteTerm)
	case had.Last < p.Last:
		return fmt.Sprintf("their log ends at entry %d, and this server has had entry %d", had.Last, p.Last)
	}
	if t := termAt(p.Last); t != 0 && t != p.LastTerm {
		return fmt.Sprintf("their entry %d is of term %d, and this server has had it of term %d", p.Last, t, p.LastTerm)
	}
	return ""
}

// close closes the file; what was written is durable already.
func (m *memory) close() error { return m.file.Close() }
