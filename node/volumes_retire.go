package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// A copy that was dropped goes in three steps, each of which a restart takes up:
//
//	<node.data>/dropped/s007          the decision: the copy is to go
//	<meta>/slots/s007.dropped-1/      its folders, under another name; then held/s007 and
//	<data>/slots/s007.dropped-1/      dropped/s007 go, and the slot may lie here again
//	nothing                           the files, one after the other
const droppedInfix = ".dropped-"

func (v *volumes) decision(id slot.ID) string { return filepath.Join(v.home, "dropped", id.String()) }

// retire decides that the copy of a slot goes, durably, and moves its folders out of the way.
func (v *volumes) retire(id slot.ID) error {
	if err := os.MkdirAll(filepath.Dir(v.decision(id)), 0o700); err != nil {
		return err
	}
	if err := disk.SyncDir(v.fs, v.home); err != nil {
		return err
	}
	if err := disk.ReplaceFile(v.decision(id), nil); err != nil {
		return fmt.Errorf("decide that the copy of %s goes: %w", id, err)
	}
	return v.finishRetire(id)
}

// finishRetire does what was decided, if anything was.
func (v *volumes) finishRetire(id slot.ID) error {
	if _, err := os.Stat(v.decision(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	vol, held, err := v.remembered(id)
	if err != nil {
		return err
	}
	if held {
		for _, dir := range slices.Compact([]string{vol.Meta, vol.Data}) {
			if err := v.moveAway(filepath.Join(dir, "slots"), id); err != nil {
				return fmt.Errorf("move dropped copy of %s away: %w", id, err)
			}
		}
		if err := removeDurably(v.marker(id)); err != nil {
			return err
		}
		v.mu.Lock()
		delete(v.slots, id)
		v.mu.Unlock()
	}
	return removeDurably(v.decision(id))
}

// moveAway gives a slot's folder a name under which nobody looks for it.
func (v *volumes) moveAway(slots string, id slot.ID) error {
	names, err := v.fs.List(slots)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil || !slices.Contains(names, id.String()) {
		return err
	}
	n := 1
	for slices.Contains(names, fmt.Sprint(id, droppedInfix, n)) {
		n++
	}
	if err := v.fs.Rename(filepath.Join(slots, id.String()), filepath.Join(slots, fmt.Sprint(id, droppedInfix, n))); err != nil {
		return err
	}
	return disk.SyncDir(v.fs, slots)
}

// removeDurably removes a small file of node.data.
func removeDurably(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// finishRetires does what was decided before this start.
func (v *volumes) finishRetires() error {
	list, err := slotsIn(filepath.Join(v.home, "dropped"))
	for _, id := range list {
		err = errors.Join(err, v.finishRetire(id))
	}
	return err
}

// heldSlots lists the slots that this node holds a copy of.
func (v *volumes) heldSlots() ([]slot.ID, error) { return slotsIn(filepath.Join(v.home, "held")) }

// slotsIn lists the slots by which files of a folder are named.
func slotsIn(dir string) (out []slot.ID, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if id, err := slot.ParseID(e.Name()); err == nil {
			out = append(out, id)
		}
	}
	return out, nil
}

// retired lists the slots of which files of dropped copies are still there.
func (v *volumes) retired() (out []slot.ID) {
	for _, dir := range v.folders() {
		names, err := v.fs.List(filepath.Join(dir, "slots"))
		if err != nil {
			continue // it is not mounted, or has no slots yet
		}
		for _, name := range names {
			before, _, is := strings.Cut(name, droppedInfix)
			if id, err := slot.ParseID(before); is && err == nil {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sweep removes the files of dropped copies of a slot. spend waits until so many bytes may go.
func (v *volumes) sweep(ctx context.Context, id slot.ID, spend func(ctx context.Context, bytes int64) error) error {
	for _, dir := range v.folders() {
		slots := filepath.Join(dir, "slots")
		names, err := v.fs.List(slots)
		if oserror.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, id.String()+droppedInfix) {
				if err := v.removeTree(ctx, filepath.Join(slots, name), spend); err != nil {
					return fmt.Errorf("remove dropped copy %s: %w", name, err)
				}
			}
		}
	}
	return nil
}

// removeTree removes a folder file by file.
func (v *volumes) removeTree(ctx context.Context, path string, spend func(ctx context.Context, bytes int64) error) error {
	st, err := v.fs.Stat(path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		if err := spend(ctx, st.Size()); err != nil {
			return err
		}
		return v.fs.Remove(path)
	}
	names, err := v.fs.List(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := v.removeTree(ctx, filepath.Join(path, name), spend); err != nil {
			return err
		}
	}
	return v.fs.Remove(path)
}
