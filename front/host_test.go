package front

import (
	"net/netip"
	"testing"
)

func TestHost(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.1":             "192.0.2.1/32",
		"192.0.2.2":             "192.0.2.2/32",
		"::ffff:192.0.2.1":      "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::1":  "2001:db8:1:2::/64",
		"2001:db8:1:3::1":       "2001:db8:1:3::/64",
		"fe80::1%eth0":          "fe80::/64",
		"::1":                   "::/64",
		"::ffff:192.0.2.1%eth0": "192.0.2.1/32",
	} {
		if got := Host(netip.MustParseAddr(a)).String(); got != want {
			t.Errorf("%s: got %s, want %s", a, got, want)
		}
	}
	if got := Host(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("no address: got %s", got)
	}
}
