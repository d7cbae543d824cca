package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// Short names that keep the table of settings in two lines per row.
type (
	span       = time.Duration
	prefixList = []netip.Prefix
	nodeName   = slot.NodeName
	mailAddr   = slot.Address
)

// text accepts a string that passes check.
func text(put func(*Config, string), check func(string) error) setter {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return errors.New(`write text in quotes, such as "…"`)
		}
		if err := check(s); err != nil {
			return err
		}
		put(c, s)
		return nil
	}
}

// address accepts a mail address, and "".
func address(put func(*Config, mailAddr)) setter {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if ok && s == "" {
			put(c, "")
			return nil
		}
		a, err := slot.ParseAddress(s)
		if err != nil {
			return errors.New(`write an address in quotes, such as "postmaster@example.org"`)
		}
		put(c, a)
		return nil
	}
}

// boolean accepts true and false.
func boolean(put func(*Config, bool)) setter {
	return func(c *Config, v any) error {
		b, ok := v.(bool)
		if !ok {
			return errors.New("write true or false, without quotes")
		}
		put(c, b)
		return nil
	}
}

// count accepts a whole number from lo to hi.
func count(put func(*Config, int64), lo, hi int64) setter {
	return func(c *Config, v any) error {
		n, ok := v.(int64)
		if !ok || n < lo || n > hi {
			return fmt.Errorf("write a whole number from %d to %d, without quotes", lo, hi)
		}
		put(c, n)
		return nil
	}
}

// duration accepts a Go duration string from lo to hi.
func duration(put func(*Config, time.Duration), lo, hi string) setter {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return errors.New(`write a duration with its unit in quotes, such as "2s", "15m" or "168h"`)
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return errors.New(`write a number with the unit "ms", "s", "m" or "h", such as "2s" or "168h"`)
		}
		least, errLo := time.ParseDuration(lo)
		most, errHi := time.ParseDuration(hi)
		if err := errors.Join(errLo, errHi); err != nil {
			panic(fmt.Sprintf("bounds %q, %q: %v", lo, hi, err))
		}
		if d < least || d > most {
			return fmt.Errorf("write a duration from %q to %q", lo, hi)
		}
		put(c, d)
		return nil
	}
}

// option is one permitted word and what it stands for.
type option[T any] struct {
	word  string
	value T
}

func logLevels() []option[slog.Level] {
	return []option[slog.Level]{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}}
}

// choice accepts one word of a closed list.
func choice[T any](put func(*Config, T), options []option[T]) setter {
	return func(c *Config, v any) error {
		var words []string
		for _, o := range options {
			if v == o.word {
				put(c, o.value)
				return nil
			}
			words = append(words, strconv.Quote(o.word))
		}
		return errors.New("write " + strings.Join(words, " or "))
	}
}

// addresses accepts a list of addresses that can be dialled.
func addresses(put func(*Config, []string)) setter {
	return func(c *Config, v any) error {
		list, ok := v.([]any)
		if !ok {
			return errors.New(`write a list, such as ["n2.example.org:7400"]`)
		}
		got := make([]string, 0, len(list))
		for _, item := range list {
			s, _ := item.(string)
			if err := checkDial(s); err != nil {
				return err
			}
			got = append(got, s)
		}
		put(c, got)
		return nil
	}
}

// prefixes accepts a list of addresses and networks.
func prefixes(put func(*Config, []netip.Prefix)) setter {
	const want = `write a list of addresses and networks, such as ["10.0.0.5", "192.0.2.0/24"]`
	return func(c *Config, v any) error {
		list, ok := v.([]any)
		if !ok {
			return errors.New(want)
		}
		got := make([]netip.Prefix, 0, len(list))
		for _, item := range list {
			s, ok := item.(string)
			if !ok {
				return errors.New(want)
			}
			p, err := parsePrefix(s)
			if err != nil {
				return err
			}
			got = append(got, p)
		}
		put(c, got)
		return nil
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf(`%q is no address or network: write, for instance, "10.0.0.5" or "192.0.2.0/24"`, s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its mask: write %q for the network or %q for the one host", s, p.Masked(), p.Addr())
	}
	return p, nil
}

// optional lets "" through.
func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func checkNodeName(s string) error {
	if s != "" && peer.CheckName(slot.NodeName(s)) != nil {
		return errors.New(`write a name of 1 to 31 of a-z, 0-9 and "-" that does not begin with "-", such as "n1"`)
	}
	return nil
}

func checkPath(s string) error {
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) {
		return errors.New(`write an absolute path, such as "/var/lib/mailnode"`)
	}
	return nil
}

// socketPathMax is the longest path of a unix socket, in bytes: sun_path holds
// 108 with its final zero on Linux, 104 on the BSDs.
const socketPathMax = 103

func checkSocket(s string) error {
	if len(s) > socketPathMax {
		return fmt.Errorf("write a path of at most %d bytes: a unix socket has no room for more", socketPathMax)
	}
	return checkPath(s)
}

// checkHostname keeps what goes into a greeting or a Received line one atom
// (RFC 5321, section 4.1.2: Domain).
func checkHostname(s string) error {
	for _, label := range strings.Split(s, ".") {
		if s != "" && !isLabel(label) {
			return errors.New(`write a host name, such as "mail1.example.org"`)
		}
	}
	if len(s) > 253 {
		return errors.New("write a host name of at most 253 bytes")
	}
	return nil
}

// isLabel reports whether s is letters, digits and inner hyphens, 1 to 63 of them.
func isLabel(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-'
}

func checkWord(s string) error {
	if s != "" && !isLabel(s) {
		return errors.New(`write one word of letters, digits and "-", such as "rack1"`)
	}
	return nil
}

func checkListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port, 0) || !isHost(host, true) {
		return errors.New(`write host:port to listen on, such as ":7400", "192.0.2.1:7400" or "[::1]:7400"`)
	}
	return nil
}

func checkDial(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port, 1) || !isHost(host, false) || isWildcard(host) {
		return errors.New(`write the host:port that other nodes dial, such as "n1.example.org:7400" or "192.0.2.1:7400"`)
	}
	return nil
}

func isPort(s string, least int) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && int(n) >= least
}

func isHost(s string, emptyToo bool) bool {
	if s == "" {
		return emptyToo
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return !strings.Contains(s, ":") && checkHostname(s) == nil
}

// isWildcard reports whether a host part means "every address of this machine".
func isWildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.Unmap().IsUnspecified()
}

// IsLoopback reports whether an address, "host:port" or a host alone, can be
// reached from this machine only. IMAP LOGIN without TLS is decided by it. A
// host name other than "localhost" is not loopback, whatever it resolves to.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
