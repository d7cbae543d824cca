// Package front is what the doors to clients have in common.
package front

import "net/netip"

// Host returns what counts as one client address: an IPv4 address, or the /64 of
// an IPv6 address, which is what one customer or machine is handed whole. It is
// the zero Prefix for no address.
func Host(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr has no bits
	}
	return p
}
