package wire

import (
	"cmp"
	"slices"
	"strconv"
)

// Range is a range of sequence numbers or UIDs. In a Set as parsed, 0 is "*"
// and the ends are in the order in which the client gave them.
type Range struct{ Lo, Hi uint32 }

// Set is a set of sequence numbers or UIDs (RFC 3501, section 9: sequence-set).
type Set []Range

// Set takes a sequence-set.
func (d *Decoder) Set() Set {
	var s Set
	for d.err == nil {
		r := Range{Lo: d.setNumber()}
		r.Hi = r.Lo
		if d.Try(':') {
			r.Hi = d.setNumber()
		}
		s = append(s, r)
		if !d.Try(',') {
			break
		}
	}
	if d.err != nil {
		return nil
	}
	return s
}

func (d *Decoder) setNumber() uint32 {
	if d.Try('*') {
		return 0
	}
	n := d.Number()
	if n == 0 {
		d.Fail("a number above 0, or *")
	}
	return n
}

// Resolve puts star in place of "*" and returns sorted ranges that do not touch.
// "n:*" always holds star, also when n is larger (RFC 3501, section 6.4.8).
func (s Set) Resolve(star uint32) Set {
	out := make(Set, 0, len(s))
	for _, r := range s {
		if r.Lo == 0 {
			r.Lo = star
		}
		if r.Hi == 0 {
			r.Hi = star
		}
		if r.Lo > r.Hi {
			r.Lo, r.Hi = r.Hi, r.Lo
		}
		if r.Hi == 0 {
			continue // "*" of an empty mailbox
		}
		r.Lo = max(r.Lo, 1)
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Range) int { return cmp.Compare(a.Lo, b.Lo) })
	merged := out[:0]
	for _, r := range out {
		if n := len(merged); n > 0 && uint64(r.Lo) <= uint64(merged[n-1].Hi)+1 {
			merged[n-1].Hi = max(merged[n-1].Hi, r.Hi)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Contains needs a resolved Set.
func (s Set) Contains(n uint32) bool {
	i, _ := slices.BinarySearchFunc(s, n, func(r Range, n uint32) int { return cmp.Compare(r.Hi, n) })
	return i < len(s) && s[i].Lo <= n
}

// AppendNums appends the compact form of numbers in their order: runs that rise
// by one become ranges. Expanded, the form has the same numbers in the same
// order, so the two sets of a COPYUID stay in step.
func AppendNums[N ~uint32](dst []byte, nums []N) []byte {
	for i := 0; i < len(nums); {
		j := i + 1
		for j < len(nums) && nums[j] == nums[j-1]+1 {
			j++
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(nums[i]), 10)
		if j-i > 1 {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(nums[j-1]), 10)
		}
		i = j
	}
	return dst
}
