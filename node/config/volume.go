package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Volume is where slots lie: what is small and read often on one disk, bodies on
// another, which may be the same.
type Volume struct {
	Meta string // absolute path
	Data string // absolute path
}

// String names a volume as operators know it.
func (v Volume) String() string {
	if v.Meta == v.Data {
		return v.Meta
	}
	return v.Meta + " + " + v.Data
}

// volumeDoc is what the example says of volumes. They are no setting: there may
// be several, and the file without one means the same as one in the data folder.
const volumeDoc = `Disks for slots, as many as there are; without any, slots lie in the data folder. "meta" has the indexes (a small part, a fast disk), "data" the messages; without "data" both are in "meta". A new slot goes where most is free, and stays there. At the end of the file:`

const volumeExample = `# [[volume]]
# meta = "/ssd1/mailnode"
# data = "/disk1/mailnode"
`

// volumes reads the [[volume]] blocks.
func (r *reader) volumes(line int, v any) {
	list, ok := v.([]map[string]any)
	if !ok {
		r.complain(line, "volume: write each as a block: [[volume]], then meta = \"/path\" and data = \"/path\" below it")
		return
	}
	used := map[string]bool{}
	for i, block := range list {
		var vol Volume
		for _, key := range slices.Sorted(maps.Keys(block)) {
			path, isText := block[key].(string)
			switch {
			case key != "meta" && key != "data":
				r.complain(line, "volume %d: unknown setting %q: there are meta and data; other settings belong above the first [[volume]]", i+1, key)
				return
			case !isText || checkPath(path) != nil:
				r.complain(line, "volume %d: %s = %s: %v", i+1, key, shown(block[key]), checkPath(""))
				return
			case key == "meta":
				vol.Meta = strings.TrimRight(path, "/")
			default:
				vol.Data = strings.TrimRight(path, "/")
			}
		}
		if vol.Meta == "" {
			r.complain(line, "volume %d: meta is missing: write meta = \"/path\"", i+1)
			return
		}
		if vol.Data == "" {
			vol.Data = vol.Meta
		}
		for _, path := range slices.Compact([]string{vol.Meta, vol.Data}) {
			if used[path] {
				r.complain(line, "volume %d: %q is in two volumes: write another folder", i+1, path)
				return
			}
			used[path] = true
		}
		r.config.Volumes = append(r.config.Volumes, vol)
	}
}

// exampleVolumes is the end of the example, all of it comments.
func exampleVolumes() string {
	var b strings.Builder
	b.WriteByte('\n')
	for _, line := range wrap(volumeDoc, exampleWidth) {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	return b.String() + volumeExample
}
