package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"mailnode/node/peer"
)

// Problem is one thing wrong with a configuration file.
type Problem struct {
	File string
	Line int // from 1; 0 concerns the file as a whole
	Text string

	Unread bool // there is no such file, or it cannot be read
}

// Error returns "file:line: text", which editors and people can follow.
func (p Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

// Load reads a file. Its error joins every Problem of the file.
func Load(path string) (Config, error) {
	c, problems := read(path)
	return c, joined(problems)
}

// Check returns everything that is wrong with a file, in the order of its lines;
// nothing when it can be loaded.
func Check(path string) []Problem {
	_, problems := read(path)
	return problems
}

// Parse reads the text of a configuration file; file is its name in Problems.
func Parse(file, text string) (Config, []Problem) {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return parse(file, text, host)
}

func read(path string) (Config, []Problem) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, []Problem{{File: path, Unread: true, Text: fmt.Sprintf("read configuration: %v; `mailnode config example` prints one", errors.Unwrap(err))}}
	}
	return Parse(path, string(text))
}

func joined(problems []Problem) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}

// parse is Parse with the machine's host name handed in.
func parse(file, text, host string) (Config, []Problem) {
	r := reader{file: file, table: settings()}
	if err := presets(&r.config, r.table); err != nil {
		panic(err) // a default that its own setting refuses: TestExample finds it
	}
	values, keys := r.decode(text)
	r.lines = keyLines(text, keys)
	for _, key := range keys {
		r.apply(key, values)
	}
	r.complete(host)
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
	if len(r.problems) > 0 {
		return Config{}, r.problems
	}
	return r.config, nil
}

// presets fills a Config with the defaults of the table.
func presets(c *Config, table []setting) error {
	for _, s := range table {
		var values map[string]any
		if _, err := toml.Decode(s.name+" = "+s.preset, &values); err != nil {
			return fmt.Errorf("read default of %q: %w", s.name, err)
		}
		if err := s.set(c, values[s.name]); err != nil {
			return fmt.Errorf("set default of %q: %w", s.name, err)
		}
	}
	return nil
}

// reader collects what one file says and what is wrong with it.
type reader struct {
	file     string
	table    []setting
	config   Config
	lines    map[string]int
	problems []Problem
	wrong    []string // settings whose value was refused
}

func (r *reader) complain(line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: r.file, Line: line, Text: fmt.Sprintf(format, args...)})
}

// apply sets one key of the file.
func (r *reader) apply(key toml.Key, values map[string]any) {
	name := key[0]
	if len(key) > 1 {
		return // inside something that was already refused under its first name
	}
	if name == "volume" {
		if r.config.Volumes == nil {
			r.volumes(r.lines[name], values[name])
		}
		return
	}
	if name == "hooks" {
		r.hooks(r.lines[name], values[name])
		return
	}
	if isBlock(values[name]) {
		r.complain(r.lines[name], "unknown block [%s]: the file is flat, one `setting = value` per line", name)
		return
	}
	i := slices.IndexFunc(r.table, func(s setting) bool { return s.name == name })
	if i < 0 {
		r.complain(r.lines[name], "unknown setting %q%s", name, r.nearest(name))
		return
	}
	if err := r.table[i].set(&r.config, values[name]); err != nil {
		r.wrong = append(r.wrong, name)
		r.complain(r.lines[name], "%s = %s: %v", name, shown(values[name]), err)
	}
}

// complete fills in what depends on other settings or on the machine, and
// checks what concerns more than one setting.
func (r *reader) complete(host string) {
	n := &r.config.Node
	if n.Hostname == "" {
		n.Hostname = host
		if host == "" || checkHostname(host) != nil {
			r.complain(r.lines["hostname"], "hostname: the system's host name %q cannot be used: write hostname = \"mail1.example.org\"", host)
		}
	}
	if n.Name == "" && !slices.Contains(r.wrong, "name") {
		label, _, _ := strings.Cut(strings.ToLower(host), ".")
		n.Name = nodeName(label)
		if peer.CheckName(n.Name) != nil {
			r.complain(r.lines["name"], "name: the system's host name %q makes no node name: write name = \"n1\"", host)
		}
	}
	if n.PeerAdvertise == "" {
		n.PeerAdvertise = n.Peer
		if h, port, err := net.SplitHostPort(n.Peer); err == nil && isWildcard(h) {
			n.PeerAdvertise = net.JoinHostPort(n.Hostname, port)
		}
	}
	if (n.TLSCert == "") != (n.TLSKey == "") && !slices.Contains(r.wrong, "tls_cert") && !slices.Contains(r.wrong, "tls_key") {
		r.complain(max(r.lines["tls_cert"], r.lines["tls_key"]), "tls_cert and tls_key belong together: write both, or neither for a self-signed certificate")
	}
	if len(r.config.Volumes) == 0 {
		r.config.Volumes = []Volume{{Meta: n.Data, Data: n.Data}}
	}
	if n.Standby && n.Witness {
		r.complain(max(r.lines["standby"], r.lines["witness"]), "a witness holds no mail and cannot be standby: write witness = false or standby = false")
	}
	r.distinct([]binding{
		{"peer", n.Peer}, {"imap", r.config.IMAP.Plain}, {"imaps", r.config.IMAP.TLS}, {"lmtp", r.config.LMTP.TCP}, {"metrics", n.Metrics},
		{"socket", n.Socket}, {"lmtp_socket", r.config.LMTP.Socket},
	})
}

// binding is a setting that opens a listening socket.
type binding struct{ name, address string }

// distinct complains about two settings that listen in the same place.
func (r *reader) distinct(all []binding) {
	for i, b := range all {
		for _, a := range all[:i] {
			if b.address != "" && a.address == b.address && !strings.HasSuffix(b.address, ":0") {
				r.complain(max(r.lines[a.name], r.lines[b.name]), "%s and %s both listen on %q: write another address for one of them", a.name, b.name, b.address)
			}
		}
	}
}
