package raftfsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	berrors "go.etcd.io/bbolt/errors"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// idName is the file in Config.Dir that holds the server ID.
const idName = "server-id"

// asideName is the folder in Config.Dir of what was found damaged, or older than
// what this server has promised: one numbered folder for each time.
const asideName = "damaged"

// openFiles opens what Config.Dir and Memory.Dir hold, proved, or makes it. What is
// damaged, gone, or not what this server wrote last is set aside, and Raft begins
// with an empty log: its term and its vote are those that are remembered, and the
// rest comes from a leader, before whom it takes no part in votes (see abstention).
// A sole voter has no leader to ask; what it knew was durable before it was told to
// anyone, and is its state now.
func (n *Node) openFiles() error {
	had, known, err := n.openFolders()
	if err != nil {
		return err
	}
	back, now, cause := n.proved(had)
	if cause == nil {
		n.back = back
		return n.mem.change(func(p *promises) {
			owes := p.Owes
			*p = now
			p.ServerID = string(n.id)
			if now.Last < owes { // else it is filled, or its own files were put back
				p.Owes = owes
			}
		})
	}
	if !damaged(cause) {
		return cause
	}
	if !known {
		return fmt.Errorf("%w; nothing remembers what this server has promised: it can't be filled again, install this node again under another name", cause)
	}
	aside, err := setAside(n.cfg.Dir, cause)
	if err != nil {
		return fmt.Errorf("%w; set aside: %w", cause, err)
	}
	n.log.Error("raft's files are set aside, and filled again", "folder", aside, "cause", cause)
	if n.back, err = openBackend(n.cfg.Dir); err != nil {
		return err
	}
	return n.beginAgain(had)
}

// damaged tells what is wrong with the files from what keeps this process from
// reading them: they are not set aside because it may not, or has no descriptor left.
func damaged(cause error) bool {
	return !slices.ContainsFunc([]error{berrors.ErrTimeout, syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT},
		func(kind error) bool { return errors.Is(cause, kind) })
}

// remember opens the memory, which is not on Raft's disk.
func (n *Node) remember() error {
	if n.mem != nil {
		return nil
	}
	mem, err := openMemory(n.cfg.Memory.Dir)
	if err != nil {
		return fmt.Errorf("open raft: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mem = mem
	return nil
}

// openFolders finds the server's ID, and what it has promised.
func (n *Node) openFolders() (had promises, known bool, err error) {
	if err := n.remember(); err != nil {
		return had, false, err
	}
	had, known = n.mem.get(), n.mem.known
	if err := os.MkdirAll(n.cfg.Dir, 0o700); err != nil {
		return had, known, fmt.Errorf("open raft: %w", err)
	}
	id, err := readServerID(n.cfg.Dir)
	if err != nil && !known {
		return had, false, err
	}
	// One that can't be read is written again from what is remembered.
	want := n.cfg.ServerID
	if id == "" && !known && n.cfg.Memory.Ran {
		return had, false, fmt.Errorf("open raft: the folders %q and %q are empty, and they were not: bring one of them back, or install this node again under another name", n.cfg.Dir, n.cfg.Memory.Dir)
	}
	switch {
	case id == "" && known && (want == "" || want == had.ServerID):
		id = had.ServerID
	case id == "" && (known || want != ""): // it rejoined
		id, had, known = want, promises{}, false
	case id == "":
		id = newServerID(n.cfg.Name)
	case want != "" && want != id, known && had.ServerID != id:
		return had, false, fmt.Errorf("open raft in %q: it belongs to server %q, not %q", n.cfg.Dir, id, orElse(want, had.ServerID))
	default:
		n.id = raft.ServerID(id)
		if !known && !begun(filepath.Join(n.cfg.Dir, logName)) {
			return had, false, fmt.Errorf("open raft in %q: the log of server %q is gone, and nothing remembers what it has promised: install this node again under another name", n.cfg.Dir, id)
		}
		return had, known, nil
	}
	n.id = raft.ServerID(id)
	if !known {
		if err := n.mem.change(func(p *promises) { *p = promises{ServerID: id} }); err != nil {
			return had, false, fmt.Errorf("open raft: %w", err)
		}
	}
	return had, true, writeServerID(n.cfg.Dir, id)
}

// proved opens the log and reads all of it; cause says why it can't be used.
func (n *Node) proved(had promises) (back backend, now promises, cause error) {
	err := proveBolt(filepath.Join(n.cfg.Dir, logName))
	empty := errors.Is(err, os.ErrNotExist) || errors.Is(err, errBoltEmpty)
	switch {
	case empty && (had.Term > 0 || had.Last > 0):
		return nil, now, fmt.Errorf("%s is gone or empty", logName)
	case !empty && err != nil:
		return nil, now, fmt.Errorf("prove %s: %w", logName, err)
	}
	if back, err = openBackend(n.cfg.Dir); err != nil {
		return nil, now, err
	}
	now, termAt, err := n.readPromises(back)
	if err == nil {
		if lack := had.lacks(now, termAt); lack != "" {
			err = fmt.Errorf("raft's files are older than what this server has promised: %s", lack)
		}
	}
	if err != nil {
		return nil, now, errors.Join(err, closeBackend(back, err))
	}
	return back, now, nil
}

// readPromises reads the whole log, term, vote and the newest snapshot, each with
// its checksum.
func (n *Node) readPromises(back backend) (p promises, termAt func(uint64) uint64, err error) {
	l := newLatch(func(*ErrHalted) {})
	s := &store{back: back, latch: l}
	terms := map[uint64]uint64{}
	err = l.run(func() error {
		p.Term, p.VoteTerm = s.number(keyTerm), s.number(keyVoteTerm)
		if cand, err := s.Get([]byte(keyVoteFor)); err == nil {
			p.VoteFor = cand
		}
		snap, err := n.newestSnapshot()
		if err != nil {
			return err
		}
		first, _ := s.FirstIndex()
		last, _ := s.LastIndex()
		if snap == nil && first > 1 || snap != nil && first > snap.Index+1 {
			return fmt.Errorf("the snapshot before entry %d of raft's log is gone", first)
		}
		if snap != nil {
			p.Last, p.LastTerm, p.Sole = snap.Index, snap.Term, soleVoter(n.id, snap.Configuration)
		}
		for i := first; i != 0 && i <= last; i++ {
			var entry raft.Log
			if err := s.GetLog(i, &entry); err != nil {
				return fmt.Errorf("read raft log entry %d: %w", i, err)
			}
			terms[i] = entry.Term
			if entry.Type == raft.LogConfiguration && (snap == nil || i > snap.ConfigurationIndex) {
				p.Sole = soleVoter(n.id, raft.DecodeConfiguration(entry.Data))
			}
			if i > p.Last {
				p.Last, p.LastTerm = i, entry.Term
			}
		}
		return nil
	})
	var halted *ErrHalted
	if errors.As(err, &halted) {
		err = halted.Cause
	}
	return p, func(index uint64) uint64 { return terms[index] }, err
}

// newestSnapshot proves the newest snapshot and returns its head, nil when there is
// none.
func (n *Node) newestSnapshot() (*raft.SnapshotMeta, error) {
	snaps, err := n.snapshots()
	if err != nil {
		return nil, err
	}
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	_, body, err := snaps.Open(list[0].ID) // checks its checksum
	if err != nil {
		return nil, fmt.Errorf("open raft snapshot %q: %w", list[0].ID, err)
	}
	defer body.Close()
	if _, err := decodeState(body); err != nil && !errors.Is(err, cluster.ErrNewer) {
		return nil, fmt.Errorf("read raft snapshot %q: %w", list[0].ID, err)
	}
	return list[0], nil
}

// beginAgain makes a new log of what is remembered.
func (n *Node) beginAgain(had promises) error {
	l := newLatch(func(*ErrHalted) {})
	s := &store{back: n.back, latch: l}
	err := l.run(func() error {
		if had.Term > 0 {
			_ = s.SetUint64([]byte(keyTerm), had.Term) // errors trip the latch
		}
		if had.VoteTerm > 0 {
			_ = s.SetUint64([]byte(keyVoteTerm), had.VoteTerm)
			_ = s.Set([]byte(keyVoteFor), had.VoteFor)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if known := n.fsm.current.Load().state; had.Sole && known.ClusterID != "" {
		return n.beginAlone(had, known)
	}
	if had.Last == 0 { // its term and its vote are back, and it had no entry: it lacks nothing
		return nil
	}
	return n.mem.change(func(p *promises) { p.Owes = max(p.Owes, had.Last) })
}

// beginAlone makes the known state the beginning of a sole voter's log.
func (n *Node) beginAlone(had promises, known *cluster.State) error {
	snaps, err := n.snapshots()
	if err != nil {
		return err
	}
	index, term := max(had.Last, known.Index)+1, max(had.Term, 1)
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: n.id, Address: raft.ServerAddress(n.cfg.Addr)}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, alone, index, n.encoder())
	if err != nil {
		return fmt.Errorf("begin raft's log with the known state: %w", err)
	}
	if _, err := sink.Write(cluster.EncodeSnapshot(known)); err != nil {
		return errors.Join(fmt.Errorf("begin raft's log with the known state: %w", err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("begin raft's log with the known state: %w", err)
	}
	return n.mem.change(func(p *promises) { p.Last, p.LastTerm, p.Sole, p.Owes = index, term, true, 0 })
}

// encoder encodes addresses in snapshots; nothing is sent.
func (n *Node) encoder() raft.Transport {
	_, encoder := raft.NewInmemTransport(raft.ServerAddress(n.cfg.Addr))
	return encoder
}

func (n *Node) snapshots() (*raft.FileSnapshotStore, error) {
	return raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, 2, newHclog(n.log).Named("snapshot"))
}

// setAside moves log and snapshots into a new numbered folder, for a person to look
// at. Nothing is ever deleted: what lies there already may be what is needed.
func setAside(dir string, cause error) (aside string, err error) {
	all := filepath.Join(dir, asideName)
	if err := os.MkdirAll(all, 0o700); err != nil {
		return "", err
	}
	numbers, err := asideNumbers(dir)
	if err != nil {
		return "", err
	}
	next := 1
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	}
	aside = filepath.Join(all, strconv.Itoa(next))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{logName, "snapshots"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	if err := disk.ReplaceFile(filepath.Join(aside, whyName), []byte(cause.Error()+"\n")); err != nil {
		return "", err
	}
	return aside, errors.Join(disk.SyncDir(vfs.Default, all), disk.SyncDir(vfs.Default, dir))
}

// whyName is the file in a folder of what was set aside that says why.
const whyName = "why"

// asideNumbers returns the numbers of what was set aside, in order.
func asideNumbers(dir string) (numbers []int, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, asideName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if i, err := strconv.Atoi(e.Name()); err == nil && i > 0 {
			numbers = append(numbers, i)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// wasSetAside returns why and where files were set aside last, "" when a person has
// removed them all.
func wasSetAside(dir string) string {
	numbers, err := asideNumbers(dir)
	if err != nil || len(numbers) == 0 {
		return ""
	}
	last := filepath.Join(dir, asideName, strconv.Itoa(numbers[len(numbers)-1]))
	why, err := os.ReadFile(filepath.Join(last, whyName))
	if err != nil { // it was cut off, and the rest was set aside at the next start
		why = []byte("it does not say why")
	}
	text := fmt.Sprintf("%s; set aside in %q", strings.TrimSpace(string(why)), last)
	if len(numbers) > 1 {
		text += fmt.Sprintf(" (%d lie there by now, none is deleted)", len(numbers))
	}
	return text
}

// begun reports whether there is a log; an empty file is none.
func begun(path string) bool {
	st, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist) && (err != nil || st.Size() > 0)
}

// newServerID makes a name that no earlier installation of the node had.
func newServerID(name slot.NodeName) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return string(name) + "-" + hex.EncodeToString(b[:])
}

func readServerID(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, idName))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open raft: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("open raft in %q: its file %s is empty", dir, idName)
	}
	return id, nil
}

// writeServerID makes the ID durable, and with it the log's directory entry.
func writeServerID(dir, id string) error {
	if err := disk.ReplaceFile(filepath.Join(dir, idName), []byte(id+"\n")); err != nil {
		return fmt.Errorf("write raft server ID %q: %w", id, err)
	}
	return nil
}
