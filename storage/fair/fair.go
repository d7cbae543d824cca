// Package fair keeps what one client does from costing others: what counts as one
// client (Network), turns at work that is scarce (Turns), and places for
// connections that have not said who they are (Pending). It knows no protocol and no
// mail.
package fair

import "net/netip"

// networkBits is how much of an IPv6 address is one client: a site is given a /64
// (RFC 6177, section 2), and everybody in it may take any address of it.
const networkBits = 64

// Network returns what counts as one client of an address: an IPv4 address itself,
// the /64 of an IPv6 one. It returns "" for what is no address.
func Network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	p, err := a.Prefix(networkBits)
	if err != nil {
		return ""
	}
	return p.String()
}

// NetworkOf is Network of an address in words, with a port or without.
func NetworkOf(address string) string {
	if p, err := netip.ParseAddrPort(address); err == nil {
		return Network(p.Addr())
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	return Network(a)
}
