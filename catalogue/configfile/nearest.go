package configfile

import "strings"

// maxNearest bounds the names that are compared, in bytes.
const maxNearest = 64

// DidYouMean returns ": did you mean maximum?" for a name that is not known but near to one that is, and else "".
func DidYouMean(name string, known []string) string {
	best, nearest := "", maxNearest
	for _, candidate := range known {
		longer := max(len(name), len(candidate))
		if longer > maxNearest {
			continue
		}
		d := distance(strings.ToLower(name), strings.ToLower(candidate))
		if d <= min(2, longer/3) && d < nearest {
			best, nearest = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// distance counts the bytes to insert, to leave out, to change, or to swap with their neighbour, that make b of a.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, above, aboveThat := rows[i%3], rows[(i+2)%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], aboveThat[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
