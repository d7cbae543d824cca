package local

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Files beside an index that was set aside. All are sealed (disk.WriteSealed).
const (
	asideFile = "ASIDE" // what was known when it was set aside: an asideNote
	lossFile  = "LOSS"  // the epoch that left it behind began with an accepted loss
	seenFile  = "SEEN"  // a person has looked: a Seen
)

// keyServed is where a copy notes the newest epoch that it began as master.
const keyServed = "served"

// AsideRole is what a copy was in the last epoch of a state that was set aside.
type AsideRole string

// The roles. It is not known when the note of it cannot be read.
const (
	AsideMaster  AsideRole = "master"
	AsideReplica AsideRole = "replica"
	AsideUnknown AsideRole = ""
)

type asideNote struct {
	Role  AsideRole      `json:"role"`
	Alone *slot.Position `json:"alone,omitempty"`
	Wall  int64          `json:"wall"` // shown only (law 11)
}

// Seen is who has looked at a state that was set aside, and why nothing more is to be
// done about it.
type Seen struct {
	By   string `json:"by"`
	Why  string `json:"why,omitempty"`
	Wall string `json:"wall"` // shown only (law 11)
}

// Aside is a whole state that this copy set aside, because its master's history went on
// without the last part of it.
type Aside struct {
	Name  string
	Head  slot.Position // its last event
	Role  AsideRole
	Alone *slot.Position // after it the copy acknowledged alone; nil: it did not
	Loss  bool           // the epoch that left it behind began with an accepted loss
	Wall  time.Time      // when it was set aside, zero when that is not known; shown only
	Seen  *Seen
}

// MayBeAcknowledged reports whether clients may have been told that what this state
// has beyond the shared point is kept. What a replica has there it may have confirmed
// to its master. What a master has there nobody confirmed if it never went on alone and
// the promotion was a safe one: then every acknowledged event was on a replica that was
// asked (law 1). What is not known counts as acknowledged (law 7).
func (a Aside) MayBeAcknowledged() bool {
	return a.Role != AsideMaster || a.Loss || a.Alone != nil && *a.Alone <= a.Head
}

// noteServed remembers that this copy begins, or goes on with, an epoch as master.
func (t *txn) noteServed(e slot.Epoch) error {
	if was, found, err := servedIn(t.Get); err != nil || found && was == e {
		return err
	}
	return t.b.Set(localKey(keyServed), be.AppendUint32(nil, uint32(e)), nil)
}

func servedIn(get func(key []byte) ([]byte, bool, error)) (e slot.Epoch, found bool, err error) {
	v, found, err := get(localKey(keyServed))
	if err != nil || !found || len(v) != 4 {
		return 0, false, err
	}
	return slot.Epoch(be.Uint32(v)), true, nil
}

// SetAside keeps the whole index as it is now, under a name of its own in
// quarantine/, before a diverged copy takes the master's state. The packs that
// there are now are kept for as long as it lies there (space_pins.go).
// ErrDiskFull: there is no room for it.
func (s *Slot) SetAside(ctx context.Context) (name string, err error) {
	if name, err = s.setAside(ctx); diskFull(err) {
		err = writeError(err)
	}
	if err != nil {
		return "", fmt.Errorf("set aside %s: %w", s.o.Slot, err)
	}
	return name, nil
}

func (s *Slot) setAside(ctx context.Context) (name string, err error) {
	h, err := s.Head()
	if err != nil {
		return "", err
	}
	fs := s.o.FS
	name = fmt.Sprintf("%s%d-%d", setAsidePrefix, h.Position.Epoch(), h.Position.N())
	path := fs.PathJoin(s.o.Dir, "quarantine", name)
	if names, err := fs.List(path); err == nil && len(names) > 0 {
		// It was set aside before a crash, and nothing was written since; perhaps its
		// name was not durable yet.
		return name, disk.SyncDir(fs, fs.PathJoin(s.o.Dir, "quarantine"))
	}
	tmp := path + ".new"
	if err := fs.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer s.PinPacks()()
	// Until the flush of the start has ended, the list of files may name a log that
	// was never made: an index set aside now would look as if its log had been lost.
	select {
	case <-s.db.Settled:
	case <-s.space.stall.begins(): // it waits for room
		return "", s.noRoom()
	case <-s.Failed():
		return "", s.Failure()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	// What is in flight must be in the log that is copied. Pebble has an option for that
	// (WithFlushedWAL), which cannot be told to give up when the log waits for room.
	if err := s.do(ctx, func(*txn) error { return nil }); err != nil {
		return "", err
	}
	// Inside read, so that Close waits for it.
	if err := s.read(func(*view) error {
		return s.guarded(func() error { return s.db.Checkpoint(tmp) })
	}); err != nil {
		return "", err
	}
	if err := s.writePinFile(tmp); err != nil {
		return "", err
	}
	if err := s.writeAsideNote(tmp, h); err != nil {
		return "", err
	}
	if err := fs.Rename(tmp, path); err != nil {
		return "", err
	}
	return name, disk.SyncDir(fs, fs.PathJoin(s.o.Dir, "quarantine"))
}

// writeAsideNote writes down what the copy was. What cannot be read is left out, and
// the worst is then assumed (MayBeAcknowledged).
func (s *Slot) writeAsideNote(dir string, h event.Head) error {
	n := asideNote{Wall: s.o.Clock.Wall().Unix()}
	since, alone, aloneErr := s.Alone()
	if alone {
		n.Alone = &since
	}
	served, found, err := servedIn(s.get)
	switch {
	case err != nil || aloneErr != nil:
	case found && served == h.Lineage.Last():
		n.Role = AsideMaster
	default:
		n.Role = AsideReplica
	}
	return s.writeAside(s.o.FS.PathJoin(dir, asideFile), n)
}

func (s *Slot) writeAside(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return disk.WriteSealed(s.o.FS, path, "mailnode-quarantine", string(b))
}

// asidePath is the folder of a state that was set aside. name comes from outside.
func (s *Slot) asidePath(name string) (string, error) {
	fs := s.o.FS
	path := fs.PathJoin(s.o.Dir, "quarantine", name)
	if asideHead(name) == 0 {
		return "", storage.Errorf(storage.ErrInvalid, "find state %q of slot %s: its name is %sEPOCH-N", name, s.o.Slot, setAsidePrefix)
	}
	if _, err := fs.Stat(path); err != nil {
		return "", storage.Errorf(storage.ErrNotFound, "find state %q of slot %s: %w", name, s.o.Slot, err)
	}
	return path, nil
}

// asideHead returns the head that the name of a state tells; 0 when it is no such name.
func asideHead(name string) slot.Position {
	var e slot.Epoch
	var n uint64
	_, err := fmt.Sscanf(name, setAsidePrefix+"%d-%d", &e, &n)
	if err != nil || name != fmt.Sprintf("%s%d-%d", setAsidePrefix, e, n) {
		return 0
	}
	return slot.At(e, n)
}

// Asides lists the states that lie in quarantine/, oldest history first. It reads
// their notes only.
func (s *Slot) Asides() ([]Aside, error) {
	fs := s.o.FS
	names, err := fs.List(fs.PathJoin(s.o.Dir, "quarantine"))
	if err != nil && !oserror.IsNotExist(err) {
		return nil, fmt.Errorf("list quarantine of %s: %w", s.o.Slot, err)
	}
	var out []Aside
	for _, name := range names {
		if head := asideHead(name); head != 0 {
			out = append(out, s.aside(name, head))
		}
	}
	slices.SortFunc(out, func(a, b Aside) int { return cmp.Compare(a.Head, b.Head) })
	return out, nil
}

// aside reads the notes of one state. A damaged note counts for none: the state is then
// one that nobody has looked at.
func (s *Slot) aside(name string, head slot.Position) Aside {
	a := Aside{Name: name, Head: head}
	read := func(file string, into any) bool {
		line, found, err := disk.ReadSealed(s.o.FS, s.o.FS.PathJoin(s.o.Dir, "quarantine", name, file))
		if found && err == nil {
			err = json.Unmarshal([]byte(line), into)
		}
		if err != nil {
			s.log.Warn("note of a state that was set aside cannot be read", "name", name, "file", file, "err", err)
		}
		return found && err == nil
	}
	var n asideNote
	if read(asideFile, &n) {
		a.Role, a.Alone, a.Wall = n.Role, n.Alone, time.Unix(n.Wall, 0).UTC()
	}
	var seen Seen
	if read(seenFile, &seen) {
		a.Seen = &seen
	}
	read(lossFile, &a.Loss)
	return a
}

// NoteLoss writes down that the epoch which left a state behind began with an accepted
// loss: then a replica that is lost too may have confirmed the end of the state,
// although its master never went on alone.
func (s *Slot) NoteLoss(name string) error {
	dir, err := s.asidePath(name)
	if err != nil {
		return err
	}
	if err := s.writeAside(s.o.FS.PathJoin(dir, lossFile), true); err != nil {
		return fmt.Errorf("note loss of %q: %w", name, err)
	}
	return nil
}

// DismissAside writes down that a person has looked at a state. The state itself
// stays, and its packs: no program deletes what lies in quarantine/.
func (s *Slot) DismissAside(name string, seen Seen) error {
	dir, err := s.asidePath(name)
	if err != nil {
		return err
	}
	const whyBytesMax = 500
	seen.Why = strings.ToValidUTF8(seen.Why[:min(len(seen.Why), whyBytesMax)], "")
	if err := s.writeAside(s.o.FS.PathJoin(dir, seenFile), seen); err != nil {
		return fmt.Errorf("dismiss %q: %w", name, err)
	}
	return nil
}
