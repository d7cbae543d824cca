package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// volumes says where a slot's files are. A slot is where it lies, whatever the
// free space says; only a new one is given a place. What this node has held is
// remembered below node.data, so that a volume that is not mounted is told apart
// from a new one: nothing is ever begun again beside a disk that may come back.
//
//	<meta>/VOLUME                       this volume has been used
//	<meta>/slots/s007/                  SLOT, index, quarantine
//	<data>/VOLUME
//	<data>/slots/s007/packs/            SLOT, bodies
//	<node.data>/held/s007               meta and data of the volume that has it
type volumes struct {
	fs   vfs.FS
	home string          // node.data: a volume for what already lies there
	list []config.Volume // those that new slots are put on

	mu    sync.Mutex
	slots map[slot.ID]config.Volume // new slots and old ones, as they are placed
	doors map[config.Volume]chan struct{}

	preparing map[config.Volume]*sync.Mutex // held while a volume is prepared; none is held with mu
}

// openingMax is how many copies of a volume are opened at once on so many cores:
// a disk answers several as fast as one, and checksums need cores.
func openingMax(cores int) int { return min(max(2*cores, 4), 32) }

// opening waits until a copy may be opened; opened makes room for the next. Each
// volume has a bound of its own: one whose disk hangs holds up its slots only.
func (v *volumes) opening(ctx context.Context, p place) (opened func(), err error) {
	v.mu.Lock()
	door := v.doors[p.volume]
	if door == nil {
		door = make(chan struct{}, openingMax(runtime.GOMAXPROCS(0)))
		v.doors[p.volume] = door
	}
	v.mu.Unlock()
	select {
	case door <- struct{}{}:
		return func() { <-door }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// volumeMark is the file that a used volume has in both its folders.
const volumeMark = admin.VolumeMark

func newVolumes(fs vfs.FS, c config.Config) *volumes {
	return &volumes{fs: fs, home: c.Node.Data, list: c.Volumes, slots: map[slot.ID]config.Volume{}, doors: map[config.Volume]chan struct{}{}, preparing: map[config.Volume]*sync.Mutex{}}
}

// place is where one slot's files are.
type place struct {
	volume config.Volume
	held   bool // this node had the slot before
}

func slotDir(v config.Volume, id slot.ID) string { return filepath.Join(v.Meta, "slots", id.String()) }
func packsDir(v config.Volume, id slot.ID) string {
	return filepath.Join(v.Data, "slots", id.String(), "packs")
}

func (v *volumes) all() []config.Volume {
	home := config.Volume{Meta: v.home, Data: v.home}
	if slices.Contains(v.list, home) {
		return v.list
	}
	return append([]config.Volume{home}, v.list...)
}

// dataFolders are those that new copies are put on.
func (v *volumes) dataFolders() []string {
	var out []string
	for _, vol := range v.list {
		out = append(out, vol.Data)
	}
	if len(out) == 0 {
		out = append(out, v.home)
	}
	return out
}

// find returns the place of a slot that lies on a volume, or a new one. Whoever has to
// mount a disk has to restart the node too: a unit with ReadWritePaths= does not see what
// is mounted there while it runs.
func (v *volumes) find(id slot.ID) (place, error) {
	if err := v.finishRetire(id); err != nil { // an earlier copy of it was to go
		return place{}, err
	}
	was, held, err := v.remembered(id)
	if err != nil {
		return place{}, err
	}
	where := v.all()
	if held && !slices.Contains(where, was) {
		where = append(slices.Clone(where), was) // to notice a volume that was taken out of the configuration
	}
	at, unknown := v.lies(id, where)
	for vol, err := range unknown {
		if !held || vol == was { // else it is where it was: another disk that fails does not concern it
			return place{}, err
		}
	}
	switch {
	case len(at) == 1 && !slices.Contains(v.all(), at[0]):
		return place{}, fmt.Errorf("slot %s lies on the volume %s, which is not in the configuration: write its [[volume]] again, then `systemctl restart mailnode`", id, at[0])
	case len(at) > 1:
		return place{}, fmt.Errorf("slot %s lies on more than one volume (%s): keep the one that is right, move the other away, then `mailnode slot serve %s`", id, strings.Join(names(at), "; "), id)
	case len(at) == 1:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.slots[id] = at[0]
		return place{at[0], held}, nil
	case held && was.Meta != v.home && !v.marked(was.Meta):
		return place{}, fmt.Errorf("slot %s was on the volume %s, which is not there: mount it, then `systemctl restart mailnode`. If its disk was replaced by an empty one: `touch %s`, then `mailnode slot serve %s` (or restart, for all its slots): it is filled from a replica",
			id, was, filepath.Join(was.Meta, volumeMark), id)
	}
	best, err := v.choose(id)
	if err != nil {
		return place{}, fmt.Errorf("find a volume for slot %s: %w", id, err)
	}
	return place{best, held}, nil
}

// errHalf says that one of the two disks of a copy is lost for good, and what is left
// is not a copy: it is rebuilt from the other half and from another copy.
var errHalf = errors.New("an empty disk is in the place of the one that was lost")

// half refuses a copy of which only the index or only the bodies are there. That the
// other disk is lost, and not unmounted, is said by its mark: errHalf. packs: it is the
// bodies that are missing.
func (v *volumes) half(id slot.ID, p place) (packs bool, err error) {
	if p.volume.Meta == p.volume.Data {
		return false, nil
	}
	var there [2]bool
	for i, dir := range []string{slotDir(p.volume, id), packsDir(p.volume, id)} {
		names, err := v.fs.List(dir)
		if err != nil && !oserror.IsNotExist(err) {
			return false, err
		}
		there[i] = len(names) > 0
	}
	what, dir := "index", p.volume.Meta
	if packs = !there[1]; packs {
		what, dir = "bodies", p.volume.Data
	}
	switch {
	case there[0] == there[1]:
		return false, nil
	case v.marked(dir):
		return packs, fmt.Errorf("open slot %s: %s has no %s of it: %w", id, dir, what, errHalf)
	}
	return packs, fmt.Errorf("open slot %s: %s has no %s of it: is its disk mounted? If not: mount it, then `systemctl restart mailnode`. If it was replaced by an empty one: `touch %s`, then `mailnode slot serve %s` (or restart, for all its slots): they are fetched from another copy",
		id, dir, what, filepath.Join(dir, volumeMark), id)
}

// lookWithin is how long a volume may take to say what is in a folder.
const lookWithin = 5 * time.Second

// lies returns those of some volumes that have something of a slot, and those of
// which that is not known. An index on one and the packs on another are two: they
// belong into one [[volume]].
func (v *volumes) lies(id slot.ID, where []config.Volume) (at []config.Volume, unknown map[config.Volume]error) {
	type answer struct {
		vol  config.Volume
		some bool
		err  error
	}
	unknown = map[config.Volume]error{}
	answers := make(chan answer, len(where))
	for _, vol := range where {
		unknown[vol] = fmt.Errorf("look for slot %s: the disk of %s does not answer: look at it (`dmesg`), then `mailnode slot serve %s`", id, vol, id)
		go func() {
			some, err := v.has(vol, id)
			answers <- answer{vol, some, err}
		}()
	}
	late := time.NewTimer(lookWithin)
	defer late.Stop()
	for range where {
		select {
		case a := <-answers:
			delete(unknown, a.vol)
			if a.err != nil {
				unknown[a.vol] = fmt.Errorf("look for slot %s on %s: %w", id, a.vol, a.err)
			} else if a.some {
				at = append(at, a.vol)
			}
		case <-late.C:
			return at, unknown
		}
	}
	return at, unknown
}

func (v *volumes) has(vol config.Volume, id slot.ID) (bool, error) {
	for _, dir := range []string{slotDir(vol, id), packsDir(vol, id)} {
		names, err := v.fs.List(dir)
		if err != nil && !oserror.IsNotExist(err) {
			return false, err
		}
		if len(names) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// room is what a volume has left.
type room struct {
	vol        config.Volume
	meta, data uint64
	err        error
}

// rooms asks all volumes at once. One whose disk does not answer is passed over:
// it must not hold up slots that lie elsewhere (law 9).
func (v *volumes) rooms() []room {
	answers := make(chan room, len(v.list))
	silent := map[config.Volume]bool{}
	for _, vol := range v.list {
		silent[vol] = true
		go func() {
			r := room{vol: vol, err: v.prepare(vol)}
			if r.err == nil {
				r.meta, r.data = v.free(vol.Meta), v.free(vol.Data)
			}
			answers <- r
		}()
	}
	late := time.NewTimer(lookWithin)
	defer late.Stop()
	got := map[config.Volume]room{}
	for waiting := true; waiting && len(silent) > 0; {
		select {
		case r := <-answers:
			got[r.vol] = r
			delete(silent, r.vol)
		case <-late.C:
			waiting = false
		}
	}
	var out []room
	for _, vol := range v.list {
		r, answered := got[vol]
		if !answered {
			r = room{vol: vol, err: fmt.Errorf("the disk of %s does not answer", vol)}
		}
		out = append(out, r)
	}
	return out
}

// choose returns the volume that has the most room for each slot on it, the new
// one included, and counts that: of its two parts the fuller one counts.
func (v *volumes) choose(id slot.ID) (config.Volume, error) {
	rooms := v.rooms()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.slots, id) // where it was begun and not opened
	on := map[config.Volume]uint64{}
	for _, vol := range v.slots {
		on[vol]++
	}
	var best config.Volume
	var most, mostData uint64
	var errs []error
	for _, r := range rooms {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		share := on[r.vol] + 1
		if room := min(r.meta, r.data) / share; best.Meta == "" || room > most || room == most && r.data/share > mostData {
			best, most, mostData = r.vol, room, r.data/share
		}
	}
	if best.Meta == "" {
		return best, errors.Join(errs...)
	}
	v.slots[id] = best
	return best, nil
}

func (v *volumes) free(dir string) uint64 {
	u, err := v.fs.GetDiskUsage(dir)
	if err != nil { // a file system that cannot say (tests) has no limit
		return 1 << 62
	}
	return u.AvailBytes
}

// prepare makes a volume's folders, unless it was used and is not there now.
func (v *volumes) prepare(vol config.Volume) error {
	v.mu.Lock()
	own := v.preparing[vol]
	if own == nil {
		own = &sync.Mutex{}
		v.preparing[vol] = own
	}
	v.mu.Unlock()
	own.Lock()
	defer own.Unlock()
	meta, bulk := vol.Meta == v.home || v.marked(vol.Meta), vol.Data == v.home || v.marked(vol.Data)
	if meta && bulk {
		return nil
	}
	half := meta && vol.Meta != v.home || bulk && vol.Data != v.home
	if had, err := v.had(vol); err != nil || had || half {
		return errors.Join(err, fmt.Errorf("volume %s was used before and is not there as a whole: mount it, or `touch` the missing file %s in an empty disk that replaces it", vol, volumeMark))
	}
	for _, dir := range []string{vol.Meta, vol.Data} {
		if err := v.mark(dir); err != nil {
			return fmt.Errorf("prepare volume %s: %w", vol, err)
		}
	}
	return nil
}

func (v *volumes) marked(dir string) bool {
	_, err := v.fs.Stat(filepath.Join(dir, volumeMark))
	return err == nil
}

func (v *volumes) mark(dir string) error {
	if err := v.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return disk.WriteFile(v.fs, filepath.Join(dir, volumeMark), "mailnode-volume", nil)
}

// had reports whether a slot that this node has held lies on a volume.
func (v *volumes) had(vol config.Volume) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(v.home, "held"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, e := range entries {
		id, err := slot.ParseID(e.Name())
		if err != nil {
			continue
		}
		if was, held, err := v.remembered(id); err != nil || held && was == vol {
			return true, err
		}
	}
	return false, nil
}

func (v *volumes) marker(id slot.ID) string { return filepath.Join(v.home, "held", id.String()) }

// remembered reads which volume has a slot that this node has held. The first
// release wrote an empty file, and had one volume.
func (v *volumes) remembered(id slot.ID) (vol config.Volume, held bool, err error) {
	b, err := os.ReadFile(v.marker(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return vol, false, nil
	case err != nil:
		return vol, false, err
	case len(b) == 0:
		return config.Volume{Meta: v.home, Data: v.home}, true, nil
	}
	meta, data, _ := strings.Cut(strings.TrimSuffix(string(b), "\n"), "\n")
	return config.Volume{Meta: meta, Data: data}, true, nil
}

// remember notes that this node has a copy of a slot. A folder that is gone
// later, with its disk or by somebody's hand, is told apart from a new slot's by it.
func (v *volumes) remember(id slot.ID, p place) error {
	if was, held, err := v.remembered(id); err != nil || held && was == p.volume {
		return err
	}
	if err := os.MkdirAll(filepath.Join(v.home, "held"), 0o700); err != nil {
		return err
	}
	return disk.ReplaceFile(v.marker(id), []byte(p.volume.Meta+"\n"+p.volume.Data+"\n"))
}

func names(list []config.Volume) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

// folders are all folders that slots may lie in, each once.
func (v *volumes) folders() []string {
	var out []string
	for _, vol := range v.all() {
		out = append(out, vol.Meta, vol.Data)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
