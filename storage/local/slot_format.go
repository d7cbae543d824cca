package local

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// formatVersion is the newest slot format that this release reads and writes.
// It only ever goes up.
const formatVersion = 1

// identity is what a SLOT file tells: one line of JSON, one line with its CRC-32C. By it
// the wrong disk, or another cluster's, is refused. One lies in the slot's folder and one
// beside the packs, which may be on another disk.
type identity struct {
	Format  int     `json:"format"`
	Cluster string  `json:"cluster"`
	Slot    slot.ID `json:"slot"`
	// Copy is random, the same in both files: an index and packs that were not
	// made together do not belong together.
	Copy string `json:"copy"`
}

// openFolder checks who the folders belong to, and makes those of a new copy:
// the packs' SLOT file first, so that one beside the index proves that the other
// was there.
func (s *Slot) openFolder() (string, error) {
	if err := s.proveOwner(); err != nil {
		return "", err
	}
	fs := s.o.FS
	own, packs := fs.PathJoin(s.o.Dir, "SLOT"), fs.PathJoin(s.o.PacksDir, "SLOT")
	id, found, err := s.readIdentity(own)
	if err != nil {
		return "", err
	}
	s.found.owner.identity = id
	packsID, packsFound, err := s.readIdentity(packs)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("cluster %s, slot %s", s.o.Cluster, s.o.Slot)
	switch {
	case found && packsFound && id.Copy != packsID.Copy:
		return "", fmt.Errorf("%q and %q are of two copies of the slot: is this the right disk?", own, packs)
	case found && packsFound:
		// A power loss while the copy was made may have kept the files and not the
		// folders beside them.
		for _, sub := range []string{"index", "quarantine"} {
			if err := fs.MkdirAll(fs.PathJoin(s.o.Dir, sub), 0o700); err != nil {
				return "", err
			}
		}
		// Files that can be seen need not be durable: the process that wrote them may
		// have been killed before it synced the folders.
		for _, dir := range []string{s.o.PacksDir, s.o.Dir} {
			if err := s.syncFolders(dir); err != nil {
				return "", err
			}
		}
		return text, nil
	case found && len(s.o.folders()) > 1:
		return "", storage.Errorf(storage.ErrCorrupt, "%q is missing: is the data volume mounted? If it is lost, move %q away as well: the copy is then filled from a replica", packs, s.o.Dir)
	case found: // it was lost beside its twin on one disk; noBodies finds out an emptied folder
		if err := fs.MkdirAll(s.o.PacksDir, 0o700); err != nil {
			return "", err
		}
		return text, s.writeIdentity(packs, id.Copy)
	}
	// Folders with mail and no SLOT file are damage, never a new slot.
	for dir, what := range map[string]string{fs.PathJoin(s.o.Dir, "index"): "an index", s.o.PacksDir: "packs"} {
		names, err := fs.List(dir)
		if err != nil && !oserror.IsNotExist(err) {
			return "", err
		}
		if slices.ContainsFunc(names, func(n string) bool { return n != "SLOT" && n != "SLOT.new" }) {
			return "", storage.Errorf(storage.ErrCorrupt, "%q is missing, and there is %s in %q: is the volume mounted? If it is lost, move that away as well: the copy is then filled from a replica", own, what, dir)
		}
	}
	for _, dir := range []string{s.o.Dir, fs.PathJoin(s.o.Dir, "index"), s.o.PacksDir, fs.PathJoin(s.o.Dir, "quarantine")} {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	born := fmt.Sprintf("%016x", randomID())
	if packsFound { // the making of the copy was cut off
		born = packsID.Copy
	} else if err := s.writeIdentity(packs, born); err != nil {
		return "", err
	}
	s.found.owner.identity = identity{Format: formatVersion, Copy: born}
	return text + ", made now", s.writeIdentity(own, born)
}

func (s *Slot) readIdentity(path string) (id identity, found bool, err error) {
	line, found, err := disk.ReadSealed(s.o.FS, path)
	if !found {
		return id, false, err
	}
	if err == disk.ErrSeal || err == nil && json.Unmarshal([]byte(line), &id) != nil {
		if id, damaged := s.found.owner.byIndex, slices.Contains(s.found.owner.damaged, path); damaged && id != nil {
			return *id, true, nil
		}
		return id, false, storage.Errorf(storage.ErrCorrupt, "%q is damaged", path)
	}
	if err := s.mine(path, id); err != nil {
		return id, false, err
	}
	return id, true, nil
}

// mine refuses the files of another cluster or slot, or of a newer release.
func (s *Slot) mine(path string, id identity) error {
	switch {
	case id.Format > formatVersion:
		return fmt.Errorf("%q has format %d, this release knows %d: %w", path, id.Format, formatVersion, errNewerFormat)
	case id.Cluster != s.o.Cluster:
		return fmt.Errorf("%q belongs to cluster %q, this node to %q: is this the right disk?", path, id.Cluster, s.o.Cluster)
	case id.Slot != s.o.Slot:
		return fmt.Errorf("%q belongs to slot %s: is this the right folder?", path, id.Slot)
	}
	return nil
}

func (s *Slot) writeIdentity(path, born string) error {
	line, err := json.Marshal(identity{formatVersion, s.o.Cluster, s.o.Slot, born})
	if err != nil {
		return err
	}
	if err := disk.WriteSealed(s.o.FS, path, "mailnode-slot", string(line)); err != nil {
		return err
	}
	return s.syncFolders(s.o.FS.PathDir(s.o.FS.PathDir(path))) // its own folder is synced
}

// syncFolders makes a folder and those above it durable: a synced file is lost when its
// folder is lost with the power (LAWS §4.5).
func (s *Slot) syncFolders(dir string) error {
	fs := s.o.FS
	for d := dir; ; d = fs.PathDir(d) {
		if err := disk.SyncDir(fs, d); err != nil {
			return err
		}
		if up := fs.PathDir(d); up == d || d == "." {
			return nil
		}
	}
}

// Keys of what a copy notes of itself.
const (
	keyClean         = "clean"      // set by a clean Close
	keyPacks         = "packs"      // number: no pack was begun above it when the copy was opened, or closed cleanly
	keyRebuilding    = "rebuilding" // set while a Rebuild fills this index
	keyBuilding      = "building"   // set while a state transfer runs
	keyJournalStart  = "journal"    // position before the oldest event kept
	keyJournalEvents = "events"     // how many events the journal has
)

func localKey(name string) []byte { return append([]byte{'l'}, name...) }
