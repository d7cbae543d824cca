package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// hooksDoc is what the example says of hooks. A block, because what it names is run:
// it stands apart from what is only set.
const hooksDoc = `A command for "/bin/sh -c", run as the node's own user after each change of a slot's master, or of a node (silent, back, joined, gone; this node takes clients, or no longer), with JSON on its standard input: docs/operating/hooks.md. Below all settings:`

const hooksExample = `# [hooks]
# on_change = "/usr/local/sbin/mailnode-changed"
`

// hooks reads the [hooks] block.
func (r *reader) hooks(line int, v any) {
	block, ok := v.(map[string]any)
	if !ok {
		r.complain(line, "hooks: write a block: [hooks], then on_change = \"command\" below it")
		return
	}
	for _, key := range slices.Sorted(maps.Keys(block)) {
		command, isText := block[key].(string)
		switch {
		case key != "on_change":
			r.complain(line, "hooks: unknown setting %q: there is on_change; other settings belong above [hooks]", key)
		case !isText || strings.ContainsRune(command, 0):
			r.complain(line, "hooks: on_change = %s: write a command in quotes, such as \"/usr/local/sbin/mailnode-changed\"", shown(block[key]))
		default:
			r.config.OnChange = strings.TrimSpace(command)
		}
	}
}

// exampleHooks is the part of the example about hooks, all of it comments.
func exampleHooks() string {
	var b strings.Builder
	b.WriteByte('\n')
	for _, line := range wrap(hooksDoc, exampleWidth) {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	return b.String() + hooksExample
}
