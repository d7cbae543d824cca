package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/figures"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// VolumeMark is the file that a used volume has in both its folders. In an empty
// folder it says that the disk which was there is lost, and that this one is in its
// place.
const VolumeMark = "VOLUME"

// FoundCopy is what a volume has of a slot.
type FoundCopy struct {
	Slot   slot.ID
	Volume config.Volume
	Meta   bool // its index
	Data   bool // its bodies; as Meta where both are in one folder
}

// Found is what the volumes of a machine have of a cluster's slots.
type Found struct {
	Copies  []FoundCopy
	Foreign []string        // folders of another cluster, or that nobody can read
	Empty   []config.Volume // that have nothing
}

// volumesOf are the places where slots may lie, node.data among them.
func volumesOf(c config.Config) []config.Volume {
	home := config.Volume{Meta: c.Node.Data, Data: c.Node.Data}
	if slices.Contains(c.Volumes, home) {
		return c.Volumes
	}
	return append([]config.Volume{home}, c.Volumes...)
}

// FindCopies looks for slots on the volumes of a node that is not running. It changes
// nothing.
func FindCopies(c config.Config, clusterID string) (Found, error) {
	var out Found
	for _, v := range volumesOf(c) {
		there := map[slot.ID]FoundCopy{}
		for i, below := range []string{filepath.Join(v.Meta, "slots"), filepath.Join(v.Data, "slots")} {
			entries, err := os.ReadDir(below)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return out, fmt.Errorf("look for slots: %w", err)
			}
			for _, e := range entries {
				id, err := slot.ParseID(e.Name())
				if err != nil {
					continue
				}
				folder := filepath.Join(below, e.Name())
				if i == 1 {
					folder = filepath.Join(folder, "packs")
				}
				has, whose := ownerOf(folder)
				if !has {
					continue
				}
				if whose != "" && whose != clusterID {
					out.Foreign = append(out.Foreign, fmt.Sprintf("%s (cluster %s)", folder, whose))
					continue
				}
				f := there[id]
				f.Slot, f.Volume = id, v
				f.Meta, f.Data = f.Meta || i == 0, f.Data || i == 1
				there[id] = f
			}
		}
		if len(there) == 0 && v.Meta != c.Node.Data {
			out.Empty = append(out.Empty, v)
		}
		for _, f := range there {
			out.Copies = append(out.Copies, f)
		}
	}
	slices.SortFunc(out.Copies, func(a, b FoundCopy) int { return int(a.Slot) - int(b.Slot) })
	return out, nil
}

// ownerOf reads whose a slot's folder is; "": its SLOT file does not say. A folder
// that has nothing in it is none.
func ownerOf(folder string) (has bool, clusterID string) {
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) == 0 {
		return false, ""
	}
	line, found, err := disk.ReadSealed(vfs.Default, filepath.Join(folder, "SLOT"))
	var id struct {
		Cluster string `json:"cluster"`
	}
	if !found || err != nil || json.Unmarshal([]byte(line), &id) != nil {
		return true, ""
	}
	return true, id.Cluster
}

// Halves lists the folders of volumes of which the other one has slots: their disk is
// lost, or not mounted.
func (f Found) Halves() []string {
	var out []string
	for _, c := range f.Copies {
		if c.Volume.Meta == c.Volume.Data {
			continue
		}
		if !c.Data {
			out = append(out, c.Volume.Data)
		}
		if !c.Meta {
			out = append(out, c.Volume.Meta)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ReplaceOptions are a person's choices.
type ReplaceOptions struct {
	// Wipe deletes the copies that lie here, but for those of which nobody else is known
	// to have all, and those in which something is set aside: no program deletes that (law 7).
	Wipe bool
}

// Replaced says what became of a machine that took a member's place.
type Replaced struct {
	Cluster string
	Here    []slot.ID // copies that lie here, and come back
	Missing []slot.ID // those that do not lie here
	Idle    []slot.ID // of Missing, those whose master the node is: nobody serves them
	Wiped   []slot.ID
	Kept    []slot.ID // were not wiped: nobody else is known to have all that is in them
}

// ReplaceNode makes a machine whose node is not running the member whose name its
// configuration has, in the place of the one that had it. The copies on its volumes are
// kept, and so is what it was before: that is moved into a folder of its own. It may be
// repeated with the same token, whatever became of the first try.
func ReplaceNode(ctx context.Context, c config.Config, token string, o ReplaceOptions) (Replaced, error) {
	var out Replaced
	t, err := peer.ParseToken(token)
	if err != nil {
		return out, &Error{Text: err.Error(), Exit: ExitUsage}
	}
	if err := notRunning(c); err != nil {
		return out, err
	}
	first := FirstStart{By: ByJoin, ServerID: JoinedServerID(c.Node.Name, t.ID)}
	if id, err := peer.Load(c.Node.Data); err == nil && id.ClusterID() == t.Cluster {
		if was, err := ReadFirstStart(c.Node.Data); err == nil && was.ServerID == first.ServerID {
			return out, &Error{Text: fmt.Sprintf("join cluster %s: %s has taken this place already", t.Cluster, c.Node.Name), Exit: ExitNothing}
		}
	}
	found, err := FindCopies(c, t.Cluster)
	if err != nil {
		return out, err
	}
	if len(found.Foreign) > 0 {
		return out, &Error{Text: fmt.Sprintf("replace node %q: %s not of cluster %s: %s: move them away; is this the right disk?", c.Node.Name, figures.Count(len(found.Foreign), "folder"), t.Cluster, found.Foreign[0]), Exit: ExitRefused}
	}
	if err := os.MkdirAll(c.Node.Data, 0o700); err != nil {
		return out, fmt.Errorf("make data folder: %w", err)
	}
	accepted := func(a peer.JoinAccepted) error {
		if err := found.settle(c, a.Copies, o, &out); err != nil {
			return err
		}
		if err := setAside(c.Node.Data, "former-"+t.ID); err != nil {
			return err
		}
		first.Members = a.Members
		return writeFirstStart(c.Node.Data, first)
	}
	id, _, err := peer.Join(ctx, token, c.Node.Data, joinRequest(c, true), peer.Options{OnAccepted: accepted})
	if err != nil {
		return out, refusedIdentity(err)
	}
	out.Cluster = id.ClusterID()
	return out, nil
}

// formerParts are what a data folder has of an installation; its copies are not.
func formerParts() []string {
	return []string{"cluster", "raft", "remembered", "raft-server", FirstStartFile}
}

// setAside moves what the installation before was into a folder of its own. It goes
// on where a crash cut it off.
func setAside(dir, to string) error {
	aside := filepath.Join(dir, to)
	for _, part := range formerParts() {
		from := filepath.Join(dir, part)
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := os.MkdirAll(aside, 0o700); err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(aside, part)); err == nil {
			continue // it was moved, and this one is of the present try
		}
		if err := os.Rename(from, filepath.Join(aside, part)); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(aside); err == nil {
		return errors.Join(disk.SyncDir(vfs.Default, aside), disk.SyncDir(vfs.Default, dir))
	}
	return nil
}

// settle does with the copies that lie here what the person said and the cluster's
// record allows, and notes where those that stay are: their volume is waited for when
// it is not mounted one day.
func (f Found) settle(c config.Config, recorded []peer.Copy, o ReplaceOptions, out *Replaced) error {
	*out = Replaced{}
	record := map[slot.ID]peer.Copy{}
	for _, r := range recorded {
		record[r.Slot] = r
	}
	here := map[slot.ID]bool{}
	for _, x := range f.Copies {
		if here[x.Slot] {
			continue
		}
		aside, err := x.asides()
		if err != nil {
			return err
		}
		if o.Wipe && !record[x.Slot].Kept && !aside {
			out.Wiped = append(out.Wiped, x.Slot)
			continue
		}
		here[x.Slot] = true
		out.Here = append(out.Here, x.Slot)
		if o.Wipe {
			out.Kept = append(out.Kept, x.Slot)
		}
	}
	for _, x := range f.Copies {
		if err := x.settle(c, here[x.Slot]); err != nil {
			return err
		}
	}
	for _, r := range recorded {
		if here[r.Slot] || !r.Holds {
			continue
		}
		out.Missing = append(out.Missing, r.Slot)
		if r.Master {
			out.Idle = append(out.Idle, r.Slot)
		}
	}
	for _, dir := range f.Halves() {
		if _, err := os.Lstat(filepath.Join(dir, VolumeMark)); err == nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := disk.WriteFile(vfs.Default, filepath.Join(dir, VolumeMark), "mailnode-volume", nil); err != nil {
			return err
		}
	}
	return nil
}

// asides reports whether something lies in a copy's quarantine.
func (x FoundCopy) asides() (bool, error) {
	entries, err := os.ReadDir(filepath.Join(x.Volume.Meta, "slots", x.Slot.String(), "quarantine"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for what is set aside of slot %s: %w", x.Slot, err)
	}
	return len(entries) > 0, nil
}

// settle keeps a copy, or deletes it.
func (x FoundCopy) settle(c config.Config, keep bool) error {
	marker := filepath.Join(c.Node.Data, "held", x.Slot.String())
	if !keep {
		errs := []error{os.RemoveAll(filepath.Join(x.Volume.Meta, "slots", x.Slot.String())), os.RemoveAll(filepath.Join(x.Volume.Data, "slots", x.Slot.String()))}
		if err := os.Remove(marker); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if _, err := os.Lstat(marker); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(marker), 0o700); err != nil {
		return err
	}
	return disk.ReplaceFile(marker, []byte(x.Volume.Meta+"\n"+x.Volume.Data+"\n"))
}

// joinRequest is what this machine says of itself.
func joinRequest(c config.Config, replace bool) peer.JoinRequest {
	role := cluster.Voter
	if c.Node.Witness {
		role = cluster.Witness
	}
	return peer.JoinRequest{Name: c.Node.Name, Address: c.Node.PeerAdvertise, Zone: c.Node.Zone, Standby: c.Node.Standby,
		Role: string(role), Features: cluster.KnownFeatures, Replace: replace}
}
