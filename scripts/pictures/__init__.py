"""Pictures that people drew or photographed, from packages of npm and Debian, as captions and questions."""
