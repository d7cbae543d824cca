package local

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/index"
)

// ownership is whose a copy's folders are. The SLOT files say it, and so does the
// index: a SLOT file that is damaged is rewritten when the index says whose it is and
// all other checks have passed.
type ownership struct {
	identity           // of the SLOT file beside the index
	byIndex  *identity // what the index says; read only when a SLOT file is damaged
	damaged  []string  // the SLOT files that are damaged
}

const keyIdentity = "identity" // what the SLOT files say as well

// proveOwner finds damaged SLOT files, and asks the index instead. Nothing is
// written: the disk may still be a foreign one.
func (s *Slot) proveOwner() error {
	s.found.owner = ownership{}
	for _, dir := range []string{s.o.Dir, s.o.PacksDir} {
		path := s.o.FS.PathJoin(dir, "SLOT")
		line, found, err := disk.ReadSealed(s.o.FS, path)
		if errors.Is(err, disk.ErrSeal) || found && err == nil && json.Unmarshal([]byte(line), &identity{}) != nil {
			s.found.owner.damaged = append(s.found.owner.damaged, path)
		}
	}
	if len(s.found.owner.damaged) == 0 {
		return nil
	}
	path := s.found.owner.damaged[0]
	id, err := s.ownerByIndex()
	if err == nil {
		err = s.mine(s.o.indexDir(), id)
	}
	if err != nil {
		return storage.Errorf(storage.ErrCorrupt, "%q is damaged, and the index does not prove whose it is (%w): if this is the right disk and another copy is whole, move %q and %q away: this copy is then filled from its master",
			path, err, s.o.Dir, s.o.PacksDir)
	}
	s.found.owner.byIndex = &id
	return nil
}

// ownerByIndex reads what the index says, without changing it.
func (s *Slot) ownerByIndex() (id identity, err error) {
	line, found, err := index.ReadRecord(s.o.FS, s.o.indexDir(), s.indexOwner(), localKey(keyIdentity))
	if err == nil && !found {
		err = errors.New("it does not name its owner")
	}
	if err == nil {
		err = json.Unmarshal(line, &id)
	}
	return id, err
}

// noteOwner puts into a batch what the SLOT files say.
func (s *Slot) noteOwner(b *pebble.Batch) error {
	line, err := json.Marshal(identity{formatVersion, s.o.Cluster, s.o.Slot, s.found.owner.Copy})
	if err != nil {
		return err
	}
	return b.Set(localKey(keyIdentity), line, nil)
}

// mendOwner rewrites damaged SLOT files. By now the newest bodies that the index
// knows have been found in the packs: they belong together.
func (s *Slot) mendOwner() error {
	for _, path := range s.found.owner.damaged {
		if err := s.writeIdentity(path, s.found.owner.Copy); err != nil {
			return err
		}
		s.check.note("SLOT file", "", fmt.Sprintf("%q was damaged: it is rewritten, because the index proves that it is cluster %s, slot %s; look at the disk (`dmesg`, `smartctl -a`)",
			path, s.o.Cluster, s.o.Slot))
	}
	return nil
}

// OwnerMended names the SLOT files that were damaged when this copy was opened, and
// were rewritten.
func (s *Slot) OwnerMended() []string { return s.found.owner.damaged }
