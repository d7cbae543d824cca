package slot

import (
	"fmt"
	"slices"
	"strings"
)

// Ranges writes slots as people do: "s000-s003 s007".
func Ranges(ids []ID) string {
	ids = slices.Sorted(slices.Values(ids))
	var parts []string
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		if j > i {
			parts = append(parts, fmt.Sprintf("%s-%s", ids[i], ids[j]))
		} else {
			parts = append(parts, ids[i].String())
		}
		i = j + 1
	}
	return strings.Join(parts, " ")
}
