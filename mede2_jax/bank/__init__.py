"""The question bank: questions from files of many forms as one file of records, with their licences and images."""
