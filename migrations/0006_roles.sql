-- Roles of least privilege: to come.
SELECT 1;
