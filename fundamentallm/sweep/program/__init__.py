"""Program of a sweep file: whose it is, its command, and what it logs."""
